"""Show what is in a file of shots."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ovd.errors import UserError
from ovd.fewshot.shots import ShotSet
from pipelines.shots.sources import named, read_pool, root_of, summary


def show(file: str | Path, *, annotations: Sequence[str | Path] = (), image_root: Sequence[str | Path] = (),
         classes: Sequence[str] | None = None, show_dir: str | Path | None = None) -> None:
    """Print the shots of a file, and draw a contact sheet of each class.

    Args:
        annotations: Files that the shots must still fit (all of those that they were drawn from, in that order).
        image_root: The folder of the images (or one for each of ``annotations``): they are then looked at.
        classes: Only these.
        show_dir: Where the sheets go.

    Raises:
        UserError: a file that was changed; records, images or sizes that the shots do not fit.
    """
    whole = ShotSet.load(file)
    shots = whole.select(classes) if classes else whole
    root = root_of(annotations, image_root)
    if show_dir and root is None:
        raise UserError("--show-dir needs the images; give their folder with --image-root")
    if annotations:
        shots.check_annotations(read_pool(annotations, image_root), named(annotations))
    if root is not None:
        shots.check(root)
    print(f"{file} ({whole.hash[:15]}): {summary(shots)}")
    for key, value in shots.info.items():
        print(f"  {key}: {value}")
    width = max(map(len, shots.names))
    for name, of_class in shots.classes.items():
        images = len({shot.image for shot in of_class})
        print(f"{name:<{width}}  {len(of_class):>3} shots in {images:>3} images: "
              + "; ".join(f"{shot.image} {','.join(f'{value:.0f}' for value in shot.box)}" for shot in of_class[:3])
              + ("; ..." if len(of_class) > 3 else ""))
    checked = [what for what, done in (("the annotations", annotations), ("the images", root)) if done]
    if checked:
        print(f"they fit {' and '.join(checked)}")
    if show_dir:
        _draw(shots, root, Path(show_dir), f"shots of {whole.hash[:15]}")


def _draw(shots: ShotSet, root: Path, folder: Path, subtitle: str) -> None:
    from tqdm import tqdm

    from ovd.evaluation.audit_pictures import Pictures
    from ovd.evaluation.contact_sheet import Tile, contact_sheet, file_stem
    from ovd.stores.atomic import atomic_write

    pictures = Pictures.of(shots.to_annotations(root).images, root)

    def tiles(name: str) -> Iterator[Tile]:
        for number, shot in enumerate(shots[name], 1):
            yield Tile(pictures.image(shot.image_id), shot.box, f"shot {number}", shot.image)

    taken: set[str] = set()
    for name in tqdm(shots.names, desc="contact sheets", unit="class", disable=None):
        stem = file_stem(name, "class")
        while stem in taken:
            stem += "-"
        taken.add(stem)
        with atomic_write(folder / f"{stem}.png") as temporary:
            contact_sheet(name, subtitle, tiles(name)).save(temporary, "PNG")
    print(f"pictures: {folder} ({len(taken)} contact sheet{'s' * (len(taken) > 1)})")
