"""Images as the boxes of an annotation file are drawn on them: RGB, in the stored pixel grid."""

import os
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ovd.errors import UserError


def load_rgb(path: str | os.PathLike, width: int | None = None, height: int | None = None) -> Image.Image:
    """Decode an image file to RGB.

    An orientation in the file's EXIF data is not applied: COCO's boxes are in the pixel grid that the file stores.

    Args:
        width, height: What the annotation file says; None not to compare.

    Raises:
        UserError: The file is missing, cut off, no image, or of another size than the annotation file says.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            if (width or image.width, height or image.height) != image.size:
                raise UserError(f"{path}: is {image.width} x {image.height}, the annotation file says {width} x "
                                f"{height}{_turned(image)}; correct one of them")
            if image.mode.startswith("I;16"):  # Pillow would clip grey values of 16 bits; training reads the upper 8
                return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
            return image.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"{path}: no such image; check the image folder and the file names in the "
                        "annotations") from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image; replace it") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cut off or damaged ({str(error).splitlines()[0]}); copy it again") from None


def _turned(image: Image.Image) -> str:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation == 1:
        return ""
    return f" (its EXIF orientation {orientation} is not applied: boxes are in the stored pixel grid)"
