"""Pixels for an audit: small grey pictures that are compared, and crops that are shown."""

import io
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image as PilImage
from PIL import ImageDraw

from ovd.data.annotations import Image, image_path
from ovd.data.images import Photo
from ovd.data.rgb import load_rgb

SIDE = 32  # pixels of a picture that is compared
KEPT = 8  # decoded images
JPEG_QUALITY = 82

Colour = tuple[int, int, int]


class Pictures:
    """Reads images by id; the last few stay decoded, so ask for those of one image together.

    Args:
        photos: image id -> file.
        names: image id -> what a person calls it; by default the files' names.
    """

    def __init__(self, photos: Mapping[int, Photo], names: Mapping[int, str] | None = None) -> None:
        self.photos = photos
        self.names = names or {image_id: Path(photo.path).name for image_id, photo in photos.items()}
        self._open: OrderedDict[int, PilImage.Image] = OrderedDict()

    @classmethod
    def of(cls, images: Iterable[Image], folder: Path) -> "Pictures":
        """Those of an annotation file, called by their paths below ``folder``."""
        images = list(images)
        photos = {image.id: Photo(image.id, str(image_path(image, folder)), image.height, image.width)
                  for image in images}
        return cls(photos, {image.id: image_path(image, "").as_posix() for image in images})

    def image(self, image_id: int) -> PilImage.Image:
        """The RGB image; UserError when its file is missing, damaged or of another size than annotated."""
        if image_id not in self._open:
            photo = self.photos[image_id]
            self._open[image_id] = load_rgb(photo.path, photo.width, photo.height)
            if len(self._open) > KEPT:
                self._open.popitem(last=False)
        return self._open[image_id]

    def small(self, image_id: int, box: Sequence[float] | None = None, context: float = 0.0) -> np.ndarray:
        """The image, or what is in the box, as ``SIDE`` x ``SIDE`` grey values of mean 0 and length 1 (or all 0).

        The inner product of two is their correlation, which brightness and contrast do not change. float32
        ``[SIDE, SIDE]``.

        Args:
            context: share of the box's width and height that is added on each side.
        """
        picture = self.image(image_id)
        if box is not None:
            x1, y1, x2, y2 = box
            wide, high = context * (x2 - x1), context * (y2 - y1)
            picture = picture.crop(_window((x1 - wide, y1 - high, x2 + wide, y2 + high), picture.size))
        grey = np.asarray(picture.convert("L").resize((SIDE, SIDE), PilImage.Resampling.BOX), np.float32)
        grey -= grey.mean()
        length = float(np.linalg.norm(grey))
        return grey / length if length > SIDE * 0.5 else np.zeros_like(grey)  # half a grey level: nothing to see

    def crop(self, image_id: int, boxes: Sequence[tuple[Sequence[float], Colour]], height: int = 120,
             context: float = 0.35, widest: float = 2.0) -> bytes:
        """A JPEG of the surroundings of the first box, all boxes drawn in their colours.

        Args:
            context: share of the box's longer side that is shown around it.
            widest: largest ratio of the picture's width to its height, and the other way round.
        """
        picture = self.image(image_id)
        x1, y1, x2, y2 = boxes[0][0]
        margin = context * max(x2 - x1, y2 - y1) + 2
        width, tall = x2 - x1 + 2 * margin, y2 - y1 + 2 * margin
        width, tall = max(width, tall / widest), max(tall, width / widest)
        centre = (x1 + x2) / 2, (y1 + y2) / 2
        window = _window((centre[0] - width / 2, centre[1] - tall / 2, centre[0] + width / 2, centre[1] + tall / 2),
                         picture.size)
        return _drawn(picture, window, boxes, height)

    def whole(self, image_id: int, boxes: Sequence[tuple[Sequence[float], Colour]] = (), height: int = 180) -> bytes:
        """A JPEG of the image, boxes drawn in their colours."""
        picture = self.image(image_id)
        return _drawn(picture, (0, 0, *picture.size), boxes, height)


def correlations(pairs: Sequence[tuple], small: Callable[..., np.ndarray],
                 mirrored: Sequence[bool] | None = None) -> np.ndarray:
    """Correlation ``[P]`` of the pictures of each pair; the second is mirrored where ``mirrored`` says so.

    Args:
        pairs: P pairs of keys; ``small`` gives the picture of a key, as :meth:`Pictures.small` does.
    """
    keys = sorted({key for pair in pairs for key in pair})
    pictures = {key: small(key) for key in keys}
    turned = mirrored if mirrored is not None else [False] * len(pairs)
    return np.array([float((pictures[a] * (pictures[b][:, ::-1] if turn else pictures[b])).sum())
                     for (a, b), turn in zip(pairs, turned)])


def _window(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    x1, y1 = (max(0, min(int(np.floor(v)), limit - 1)) for v, limit in zip(box[:2], size))
    x2, y2 = (min(limit, max(int(np.ceil(v)), low + 1)) for v, limit, low in zip(box[2:], size, (x1, y1)))
    return x1, y1, x2, y2


def _drawn(picture: PilImage.Image, window: tuple[int, int, int, int],
           boxes: Sequence[tuple[Sequence[float], Colour]], height: int) -> bytes:
    scale = height / (window[3] - window[1])
    size = max(1, round(scale * (window[2] - window[0]))), height
    shown = picture.crop(window).resize(size, PilImage.Resampling.BICUBIC)
    draw = ImageDraw.Draw(shown)
    for box, colour in boxes:
        x1, y1, x2, y2 = (scale * (v - window[i % 2]) for i, v in enumerate(box))
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=2)
    file = io.BytesIO()
    shown.save(file, "jpeg", quality=JPEG_QUALITY)
    return file.getvalue()
