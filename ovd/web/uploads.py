"""Pictures that visitors upload: decoded within limits, upright, and small enough to work with."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ovd.errors import UserError

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # of Pillow's; none that starts another program
WORKING_SIDE = 1600  # pixels of the longer side of what is worked on: detectors look at less
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture to work on.

    Attributes:
        name: As the visitor knows it.
        pixels: uint8 ``[H, W, 3]`` RGB, upright; smaller than the file's where that is large.
        size: (height, width) of the file, upright.
        note: What a visitor should know about how it was read; "" for nothing.
    """

    name: str
    pixels: np.ndarray
    size: tuple[int, int]
    note: str = ""


@dataclass(frozen=True)
class Limits:
    """What is taken: ``file_bytes`` of a file, ``pixels`` of a picture."""

    file_bytes: int = 20_000_000
    pixels: int = 50_000_000


def read_upload(path: str | Path, folder: str | Path, limits: Limits) -> Picture:
    """Decode an uploaded file: the first frame, as its EXIF orientation says, on white where it is transparent.

    Args:
        path: The file, as the web framework names it.
        folder: Where uploads are put; nothing outside it is read, whatever ``path`` says.

    Raises:
        UserError: A sentence for the page: no picture, a damaged one, one beyond the limits, a file from elsewhere.
    """
    path = Path(path)
    name = path.name
    try:
        if not path.resolve(strict=True).is_relative_to(Path(folder).resolve()) or not path.is_file():
            raise UserError("Only uploaded pictures are read.")
    except OSError:
        raise UserError("This upload is not there any more. Choose the picture again.") from None
    if path.stat().st_size > limits.file_bytes:
        raise UserError(too_heavy(name, path.stat().st_size, limits))
    try:
        Image.init()  # formats are known by then
        with Image.open(path, formats=[kind for kind in FORMATS if kind in Image.OPEN]) as image:
            return _decode(image, name, limits)
    except UnidentifiedImageError:
        raise UserError(f"{name} is not a picture that can be read here. JPEG, PNG, WebP, GIF, BMP and TIFF can.") \
            from None
    except Image.DecompressionBombError:
        raise UserError(_too_large(name, "far too many", limits)) from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, ArithmeticError, LookupError, TypeError):
        raise UserError(f"{name} is cut off or damaged. Copy it again, or choose another picture.") from None


def too_heavy(name: str, size: int, limits: Limits) -> str:
    """What is said of a file with more bytes than are taken."""
    return f"{name} has {size / 1e6:.3g} MB; the most is {limits.file_bytes / 1e6:.3g} MB."


def _decode(image: Image.Image, name: str, limits: Limits) -> Picture:
    width, height = image.size
    if width * height > limits.pixels:
        raise UserError(_too_large(name, f"{width} x {height}", limits))
    frames = getattr(image, "n_frames", 1)
    note = f"Only the first of its {frames} frames is used." if frames > 1 and image.format != "MPO" else ""
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _TURNED
    if image.mode.startswith("I;16"):  # Pillow would clip grey values of 16 bits
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    upright = image
    if max(width, height) > WORKING_SIDE:
        if image.mode not in ("RGB", "L", "CMYK", "YCbCr"):  # palettes and the like cannot be made smaller as they are
            upright = image = _on_white(image)
        upright.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0)
    upright = _on_white(ImageOps.exif_transpose(upright))
    if min(upright.size) < 2:
        raise UserError(f"{name} is too narrow: {width} x {height} pixels.")
    return Picture(name, np.array(upright), (width, height) if turned else (height, width), note)


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image.convert("RGBA"))
    return paper.convert("RGB")


def _too_large(name: str, size: str, limits: Limits) -> str:
    most = f"{limits.pixels / 1e6:g} million" if limits.pixels >= 1e5 else f"{limits.pixels:,}"
    return f"{name} has {size} pixels; the most is {most}. Make it smaller and choose it again."
