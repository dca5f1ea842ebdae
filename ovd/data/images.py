"""Image files: where they lie, and whether they are there and whole.

OpenCV decodes a JPEG that was cut off without a word, the rest in grey.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ovd.errors import UserError

# The last bytes of a whole file, by its first bytes; other formats, and files with more bytes after it, are decoded.
_ENDS = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG": b"IEND\xaeB\x60\x82"}


@dataclass(frozen=True)
class Photo:
    """An annotated image: where it lies, and the size in pixels that its annotations state."""

    image_id: int
    path: str
    height: int
    width: int


def check_image_file(path: str | os.PathLike, or_else: str = ", or pass --on-error skip to leave it out") -> None:
    """Raise UserError when the image ``path`` is missing, empty, cut off or no image; cheap for JPEG and PNG.

    Args:
        or_else: What else than copying it again helps with a damaged one.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(4)
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8))
            tail = file.read()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such image; check the image folder and the annotations' file names") from error
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror})") from error
    if any(head.startswith(start) and tail.endswith(end) for start, end in _ENDS.items()):
        return
    try:
        with Image.open(path) as image:
            image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        what = "not an image" if isinstance(error, UnidentifiedImageError) else "cut off or damaged"
        raise UserError(f"{path}: {what}; copy it again{or_else}") from error
