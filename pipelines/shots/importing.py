"""Take over shots that others chose."""

from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import msgspec

from ovd.errors import UserError
from ovd.fewshot.boxes_file import read_boxes_file
from ovd.fewshot.saved_dataset import read_saved_dataset
from ovd.fewshot.shots import ShotSet
from ovd.fewshot.tfa_lists import TfaLists, read_tfa
from ovd.stores.manifest import current_or_remove, fingerprint, fingerprint_json
from ovd.vocabulary.splits import get_split
from pipelines.shots.sources import STAGE, folders, inputs_of, named, publish_shots, read_pool, root_of


def import_shots(sources: Sequence[str | Path], out: str | Path, *, format: str | None = None,
                 annotations: Sequence[str | Path] = (), image_root: Sequence[str | Path] = (),
                 classes: Sequence[str] | None = None, split: str | None = None, shots: int | None = None,
                 seed: int = 0, overwrite: bool = False) -> Path:
    """Read shots of other programs, or boxes of a person, and write them as a file of shots.

    Args:
        sources: TFA's ``benchmark_Kshot`` folders, MMFewShot's saved datasets, boxes (csv, COCO json); merged in order.
        format: ``"tfa"``, ``"mmfewshot"`` or ``"boxes"``; by default a folder is the first, and a json that is a list
            the second.
        annotations: Of the images of TFA's lists.
        image_root: Where the images are looked for, if given; file names are relative to it.
        classes, split: Which classes are wanted; each source must have them all. Default: those that it has.
        shots: The lists of so many shots; of other sources the first ones of each class.

    Raises:
        UserError: a source that is none, a class that one lacks, a box outside its image.
    """
    out, sources = Path(out), [Path(source) for source in sources]
    names = list(get_split(split).classes) if split else list(classes) if classes else None
    root = root_of(annotations, image_root)
    config = {"command": "import", "format": format, "classes": names, "shots": shots, "seed": seed,
              "folders": folders(annotations, image_root)}
    kinds = {source: format or kind_of(source) for source in sources}
    if annotations and "tfa" not in kinds.values():
        raise UserError(f"--annotations {annotations[0]}: goes with TFA's lists; other sources bring their boxes along")
    inputs = inputs_of(annotations=annotations) | {f"source.{number}": _digest(source)
                                                   for number, source in enumerate(sources, 1)}
    if current_or_remove(out, STAGE, config, inputs, overwrite):
        print(f"{out} is up to date")
        return out
    pooled = read_pool(annotations, image_root) if annotations else None

    def read(source: Path) -> ShotSet:
        if kinds[source] == "tfa":
            return read_tfa(TfaLists.find(source), names, shots, seed, pooled, named(annotations))
        read_one = read_saved_dataset if kinds[source] == "mmfewshot" else read_boxes_file
        found = read_one(source, names)
        return found.first(shots) if shots is not None else found

    found = reduce(ShotSet.merge, map(read, sources))
    if root is not None:
        found.check(root)
    publish_shots(out, found, config, inputs)
    if shots is not None:
        _tell_fewer(found, shots)
    return out


def kind_of(source: Path) -> str:
    """What a source is, by its form."""
    if source.is_dir():
        return "tfa"
    if not source.is_file():
        raise UserError(f"{source}: no such file or folder")
    if source.suffix.lower() == ".json":
        try:
            msgspec.json.decode(source.read_bytes(), type=list[msgspec.Raw])
            return "mmfewshot"
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass  # the reader of boxes says what is wrong with it
    return "boxes"


def _digest(source: Path) -> str:
    if source.is_dir():
        return fingerprint_json({path.name: fingerprint(path) for path in TfaLists.find(source).files.values()})
    return fingerprint(source)


def _tell_fewer(shots: ShotSet, k: int) -> None:
    fewer = [f"{name} ({len(of_class)})" for name, of_class in shots.classes.items() if len(of_class) < k]
    if fewer:
        print(f"note: {len(fewer)} class{'es have' if len(fewer) > 1 else ' has'} fewer than {k}: "
              f"{', '.join(fewer[:5])}{', ...' * (len(fewer) > 5)}")
