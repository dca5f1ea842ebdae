"""Write shots as an annotation file, for fine-tuning."""

from collections.abc import Sequence
from functools import reduce
from pathlib import Path

from ovd.errors import UserError
from ovd.fewshot.shots import ShotSet
from ovd.stores.manifest import Manifest, current_or_remove, publish
from ovd.vocabulary.splits import get_split
from pipelines.shots.sources import STAGE, inputs_of, named, read_pool, root_of, summary


def write_annotations(files: Sequence[str | Path], out: str | Path, *, annotations: Sequence[str | Path] = (),
                      image_root: Sequence[str | Path] = (), split: str | None = None, instance_wise: bool = False,
                      overwrite: bool = False) -> Path:
    """Write a COCO json with the chosen boxes alone; a file that is current is left.

    Args:
        files: Files of shots, of one image root; merged in order.
        annotations: What the shots were drawn from: their masks and areas are then taken over.
        image_root: Where images are whose sizes the shots do not know.
        split: Category ids are its labels; else they count from 1, in the order of the shots.
        instance_wise: An image record for each shot.

    Raises:
        UserError: files that cannot be read or do not fit, a class that the split lacks.
    """
    out, root = Path(out), root_of(annotations, image_root)
    labels = get_split(split) if split else None
    config = {"command": "annotations", "split": labels.to_json() if labels else None, "instance_wise": instance_wise}
    inputs = inputs_of(shots=files, annotations=annotations)
    if current_or_remove(out, STAGE, config, inputs, overwrite):
        print(f"{out} is up to date")
        return out
    shots = reduce(ShotSet.merge, map(ShotSet.load, files))
    source = read_pool(annotations, image_root) if annotations else None
    if source is not None:
        shots.check_annotations(source, named(annotations))
    try:
        ids = {name: labels.label(name) for name in shots.names} if labels else None
        records = shots.to_annotations(root, category_ids=ids, source=source, instance_wise=instance_wise)
    except UserError as error:
        raise UserError(f"{named(files)}: {error}") from None
    counts = {"images": len(records.images), "annotations": len(records.annotations),
              "categories": len(records.categories)}
    with publish(out, Manifest("annotations", STAGE, config, inputs, counts)) as (temporary, _):
        records.write(temporary)
    print(f"annotations: {out} of {named(files)} ({shots.hash[:15]}): {summary(shots)}")
    return out
