"""Images as people have them: files, PIL images, arrays, alone or in lists."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovd.data.rgb import load_rgb, to_rgb
from ovd.errors import UserError

ImageInput = str | os.PathLike | Image.Image | np.ndarray
"""A file; a PIL image; or uint8 ``[H, W, 3]`` RGB. Grey (``[H, W]``, ``[H, W, 1]``) and RGBA arrays are taken too."""


def as_list(images: ImageInput | Sequence[ImageInput]) -> tuple[list[ImageInput], bool]:
    """The images as a list, and whether it was one image alone.

    Raises:
        UserError: What is no image and no sequence of images.
    """
    if isinstance(images, str | os.PathLike | Image.Image | np.ndarray):
        return [images], True
    try:
        return list(images), False
    except TypeError:
        raise UserError(f"a {type(images).__name__} is no image: {_REMEDY}") from None


def source_of(image: ImageInput) -> str | None:
    """The path of an image that is a file."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else None


def read_rgb(image: ImageInput) -> np.ndarray:
    """The image as uint8 ``[H, W, 3]`` RGB.

    Photos are turned as their EXIF data say, as viewers show them: boxes are in pixels of the upright image. Of
    transparent pixels the colour counts. An array that is RGB already is not copied.

    Raises:
        UserError: A missing or broken file, by its name; an array of another shape or type.
    """
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        if not path.is_file():
            raise UserError(f"{path}: {'is a folder, not an image' if path.is_dir() else 'no such image'}")
        return np.asarray(load_rgb(path, upright=True))
    if isinstance(image, Image.Image):
        try:
            return np.asarray(to_rgb(image, upright=True))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            name = getattr(image, "filename", "") or "a PIL image"
            raise UserError(f"{name}: cut off or damaged ({str(error).splitlines()[0]}); copy it again") from None
    if isinstance(image, np.ndarray):
        return _from_array(image)
    raise UserError(f"a {type(image).__name__} is no image: {_REMEDY}")


def _from_array(array: np.ndarray) -> np.ndarray:
    shape = f"an array of shape {list(array.shape)} and type {array.dtype} is no image"
    if array.dtype != np.uint8:
        raise UserError(f"{shape}: give uint8, 0 to 255")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise UserError(f"{shape}: give [height, width, 3] RGB, with one channel for grey or four for RGBA")
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[..., :3]


def described(image: ImageInput) -> str:
    """What a message calls an image."""
    return source_of(image) or f"an image in memory ({type(image).__name__})"


_REMEDY: Any = "give a path, a PIL image, or a uint8 array [height, width, 3] in RGB"
