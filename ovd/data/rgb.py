"""Images as the boxes of an annotation file are drawn on them: RGB, in the stored pixel grid."""

import os
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ovd.errors import UserError

PHONE_PHOTOS = frozenset((".heic", ".heif", ".avif"))  # Pillow reads them with a plugin, or not at all


def load_rgb(path: str | os.PathLike, width: int | None = None, height: int | None = None,
             upright: bool = False) -> Image.Image:
    """Decode an image file to RGB.

    Args:
        width, height: What the annotation file says, of the pixel grid that the file stores; None not to compare.
        upright: Turn the image as its EXIF data say, as viewers do. COCO's boxes are in the stored pixel grid.

    Raises:
        UserError: The file is missing, cut off, no image, too large, or of another size than the annotation file says.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            if (width or image.width, height or image.height) != image.size:
                raise UserError(f"{path}: is {image.width} x {image.height}, the annotation file says {width} x "
                                f"{height}{_turned(image)}; correct one of them")
            return to_rgb(image, upright)
    except FileNotFoundError:
        raise UserError(f"{path}: no such image; check the image folder and the file names in the "
                        "annotations") from None
    except UnidentifiedImageError:
        if path.suffix.lower() in PHONE_PHOTOS:
            raise UserError(f"{path}: {path.suffix} is not read here; convert it to JPEG or PNG") from None
        raise UserError(f"{path}: not an image; replace it") from None
    except Image.DecompressionBombError:
        raise UserError(f"{path}: has more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels; make it "
                        "smaller, or cut it into parts") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: cut off or damaged ({str(error).splitlines()[0]}); copy it again") from None


def to_rgb(image: Image.Image, upright: bool = False) -> Image.Image:
    """A Pillow image in RGB; of transparent pixels the colour counts."""
    if upright:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow would clip grey values of 16 bits; training reads the upper 8
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def _turned(image: Image.Image) -> str:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation == 1:
        return ""
    return f" (its EXIF orientation {orientation} is not applied: boxes are in the stored pixel grid)"
