"""Search a region store from the page: words, a box of a picture, or both."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as PilImage

from ovd.clip.queries import blended, check_clip, example_encoder, text_rows, unit_rows
from ovd.clip.towers import ClipModel
from ovd.data.annotations import Image, image_path, load_images
from ovd.data.rgb import load_rgb
from ovd.errors import UserError
from ovd.evaluation.contact_sheet import Tile, tile_picture
from ovd.stores.hits import Hit, find_hits
from ovd.stores.region_index import RegionIndex, index_file
from ovd.stores.shards import RegionStore
from ovd.vocabulary.prompts import get_style

SIDE = 240  # pixels of a hit's picture


@dataclass(frozen=True)
class Sample:
    """An example: uint8 ``[H, W, 3]`` RGB and a box x1, y1, x2, y2 in its pixels."""

    pixels: np.ndarray
    box: tuple[float, float, float, float]


class Finder:
    """A region store, its index, its images, and the CLIP that made it. Safe in threads.

    Args:
        store: The folder of the store; an index beside it is used.
        annotations, images: The file that names the store's images, and their folder.
        clip: Loads the CLIP, at once.

    Raises:
        UserError: Something is missing, damaged, or belongs to other data.
    """

    def __init__(self, store: str | Path, annotations: str | Path, images: str | Path,
                 clip: Callable[[], ClipModel]) -> None:
        self.store = RegionStore(Path(store))
        usual = index_file(self.store.path)
        self.index = RegionIndex.load(usual, self.store) if usual.exists() else RegionIndex.scan(self.store)
        self.images: dict[int, Image] = {image.id: image for image in load_images(annotations)}
        unknown = next((number for number in self.store.image_ids if int(number) not in self.images), None)
        if unknown is not None:
            raise UserError(f"{self.store.path}: has image {unknown}, which {annotations} does not have: name the "
                            "store's own annotation file with --index-ann")
        self.folder = Path(images)
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: no such folder of images; name it with --index-images")
        self.clip = clip()
        check_clip(self.store, self.clip)
        self._lock = threading.Lock()
        self._style = get_style("vild")

    def find(self, text: str, sample: Sample | None = None, text_weight: float = 0.5, k: int = 24) -> list[Hit]:
        """The ``k`` regions that fit best, one an object.

        Raises:
            UserError: Neither words nor an example.
        """
        text = text.strip()
        if not text and sample is None:
            raise UserError("Type what to look for, or show an example.")
        with self._lock:
            rows_QD = text_rows(self.clip, [text], self._style) if text else None
            if sample is not None:
                encode = example_encoder(self.clip, self.store)
                example_D = unit_rows(encode(PilImage.fromarray(sample.pixels),
                                             np.array([sample.box], np.float32)))[0]
                rows_QD = example_D[None] if rows_QD is None else blended(rows_QD, example_D, text_weight)
            return find_hits(self.index, self.store, rows_QD, k)[0]

    def name(self, hit: Hit) -> str:
        """The file of a hit's image, below the folder of images."""
        return image_path(self.images[hit.image_id], "").as_posix()

    def picture(self, hit: Hit) -> PilImage.Image:
        """The hit, framed in its surroundings.

        Raises:
            UserError: The image cannot be read.
        """
        image = self.images[hit.image_id]
        return tile_picture(Tile(load_rgb(self.folder / self.name(hit), image.width, image.height), hit.box, ""), SIDE)

    def __len__(self) -> int:
        return len(self.index)


def sample_of(pixels: np.ndarray, boxes: Sequence[tuple[float, float, float, float]]) -> Sample:
    """A picture with its last box (fractions of width and height), or all of it.

    Raises:
        UserError: The box is too small.
    """
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = boxes[-1] if boxes else (0.0, 0.0, 1.0, 1.0)
    box = x1 * width, y1 * height, x2 * width, y2 * height
    if box[2] - box[0] < 2 or box[3] - box[1] < 2:
        raise UserError("This box is too small. Draw it around the whole thing.")
    return Sample(pixels, box)
