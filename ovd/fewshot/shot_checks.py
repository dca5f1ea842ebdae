"""Whether shots fit what they point to: image files, and the records of an annotation file."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ovd.errors import UserError

if TYPE_CHECKING:
    from ovd.data.annotations import Annotation
    from ovd.fewshot.shots import Shot

_OVERHANG = 1.0  # pixels that a box may reach beyond its image: annotation files round so
_SAME = 0.51  # pixels by which a shot's box may differ from its annotation's


def check_inside(box: Sequence[float], size: tuple[int, int], where: str) -> None:
    """UserError that begins with ``where`` unless the box (xyxy) is within an image of ``size`` (width, height)."""
    (x1, y1, x2, y2), (width, height) = box, size
    if min(x1, y1) < -_OVERHANG or x2 > width + _OVERHANG or y2 > height + _OVERHANG:
        corners = ", ".join(f"{value:g}" for value in box)
        raise UserError(f"{where}: the box {corners} (x1, y1, x2, y2) is outside the image of {width} x {height}; "
                        "correct the box, or name the right image")


def check_record(shot: "Shot", name: str, record: "Annotation | None", names: Mapping[int, str],
                 path: str | Path) -> None:
    """UserError unless ``record``, of the annotation file ``path``, still is the shot's of the class ``name``.

    Args:
        names: canonical class names by category id.
    """
    what = f"annotation {shot.annotation_id} of image {shot.image_id}, a shot of {name!r},"
    remedy = "the shots are of another file, or it has changed since: choose them again with ovd shots sample"
    if record is None:
        raise UserError(f"{path}: {what} is not there; {remedy}")
    if record.image_id != shot.image_id or names.get(record.category_id) != name:
        raise UserError(f"{path}: {what} is now of image {record.image_id} and of "
                        f"{names.get(record.category_id, 'no class')!r}; {remedy}")
    x, y, width, height = record.bbox
    x1, y1, x2, y2 = shot.box
    right, bottom = shot.size or (None, None)
    cut = (x1 == 0, y1 == 0, x2 == right, y2 == bottom)  # a shot is clipped to its image
    beyond = (x1 - x, y1 - y, x + width - x2, y + height - y2)
    if any(abs(gap) > _SAME and not (at_border and gap > 0) for gap, at_border in zip(beyond, cut)):
        raise UserError(f"{path}: {what} now has the box {x:g}, {y:g}, {width:g}, {height:g} (x, y, width, height); "
                        f"{remedy}")


def image_sizes(images: Iterable[str], root: Path, named_in: str | None = None) -> dict[str, tuple[int, int]]:
    """Width and height of images below ``root``, from their headers; UserError for one that is missing or cut off.

    Args:
        named_in: The file that names the images, for the message.
    """
    from PIL import Image

    from ovd.data.images import check_image_file

    sizes, where = {}, f", which {named_in} names" if named_in else ""
    for image in sorted(images):
        try:
            with Image.open(root / image) as picture:
                sizes[image] = picture.size
        except FileNotFoundError:
            raise UserError(f"{root / image}: no such image{where}; give the folder that the shots' images lie "
                            "in") from None
        except OSError as error:
            raise UserError(f"{root / image}: is not a readable image ({error}); fetch it again") from None
        check_image_file(root / image, "")
    return sizes
