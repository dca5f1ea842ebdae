"""``ovd show shots``."""

from collections.abc import Sequence
from pathlib import Path

from ovd.errors import UserError
from ovd.fewshot.boxes_file import read_boxes_file
from ovd.fewshot.shot_sheets import draw_shots
from ovd.fewshot.shots import ShotSet
from pipelines.show.findings import Findings, count


def show_shots(file: str | Path, image_root: str | Path, classes: Sequence[str] = (),
               out: str | Path = "work_dirs/show") -> int:
    """Draw a sheet of each class; returns the exit status.

    Args:
        file: A file of shots, or a csv of boxes.
        image_root: The folder of the images.
        classes: Only these.

    Raises:
        UserError: A file that is neither, a class that it lacks, an image that does not fit.
    """
    file, root, folder = Path(file), Path(image_root), Path(out) / "shots"
    if not root.is_dir():
        raise UserError(f"--image-root {root}: no such folder")
    shots = read_boxes_file(file, list(classes) or None) if file.suffix.lower() == ".csv" else ShotSet.load(file)
    shots = shots.select(classes) if classes else shots
    shots.check(root)
    findings = Findings()
    print(f"{file} ({shots.hash[:15]}): {count(len(shots.names), 'class', 'classes')}")
    for name, of_class in shots.classes.items():
        sides = [min(box[2] - box[0], box[3] - box[1]) for box in (shot.box for shot in of_class)]
        images = len({shot.image for shot in of_class})
        print(f"  {name}: {count(len(of_class), 'box', 'boxes')} in {count(images, 'image')}, shorter sides "
              f"{min(sides):.0f} to {max(sides):.0f} pixels")
    single = [name for name, of_class in shots.classes.items()
              if len(of_class) > 1 and len({shot.image for shot in of_class}) == 1]
    if single:
        findings.notes.append(f"all boxes of {', '.join(single[:5])} are of one image: they teach its background too")
    written = draw_shots(shots, root, folder, f"shots of {shots.hash[:15]}")
    print(f"pictures: {folder} ({count(len(written), 'sheet')})")
    return findings.report("the same thing in every frame of a sheet, whole and by itself; a shot of something else "
                           "costs more than a shot too few")
