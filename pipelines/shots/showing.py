"""Show what is in a file of shots."""

from collections.abc import Sequence
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
    try:
        shots = whole.select(classes) if classes else whole
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
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
        print(f"{name:<{width}}  {len(of_class):>3} shot{'s' * (len(of_class) > 1)} in {images:>3} "
              f"image{'s' * (images > 1)}: "
              + "; ".join(f"{shot.image} {','.join(f'{value:.0f}' for value in shot.box)}" for shot in of_class[:3])
              + ("; ..." if len(of_class) > 3 else ""))
    checked = [what for what, done in (("the annotations", annotations), ("the images", root)) if done]
    if checked:
        print(f"they fit {' and '.join(checked)}")
    if show_dir:
        from ovd.fewshot.shot_sheets import draw_shots

        drawn = draw_shots(shots, root, Path(show_dir), f"shots of {whole.hash[:15]}")
        print(f"pictures: {show_dir} ({len(drawn)} contact sheet{'s' * (len(drawn) > 1)})")
