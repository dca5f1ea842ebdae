"""One type for whatever source: a picture, or a box in one, and its class."""

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from ovd.data.rgb import load_rgb
from ovd.errors import UserError
from ovd.stores.manifest import fingerprint

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Picture:
    """An object to classify.

    Attributes:
        source: The image file; for one in a pickle, its place there: ``FILE[12]``.
        name: Its class.
        box: x1, y1, x2, y2 in pixels; None for all of the image.
        data: The encoded image, where it is in no file of its own.
    """

    source: str
    name: str
    box: Box | None = None
    data: bytes | None = None

    def digest(self) -> str:
        """``sha256:<hex>`` of the encoded image.

        Raises:
            UserError: The file is missing or cannot be read.
        """
        return fingerprint(self.source) if self.data is None else "sha256:" + hashlib.sha256(self.data).hexdigest()

    def load(self) -> Image.Image:
        """The image, RGB.

        Raises:
            UserError: It is missing, cut off or no image.
        """
        if self.data is None:
            return load_rgb(self.source)
        try:
            with Image.open(io.BytesIO(self.data)) as image:
                return image.convert("RGB")
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{self.source}: not an image, or damaged ({str(error).splitlines()[0]})") from None

    def box_in(self, image: Image.Image) -> np.ndarray:
        """The box, or that of the whole image: float64 ``[4]``."""
        return np.array(self.box if self.box is not None else (0, 0, *image.size), np.float64)
