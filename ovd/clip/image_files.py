"""Where the images of a data set are and how large, in some fifty bytes an image: every process of a run holds them."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from ovd.clip.shard_job import ImageFile


class ImageFiles(Mapping[int, ImageFile]):
    """Image files by image id, ascending. Picklable.

    Args:
        folder: In which they are.
        files: ``(image id, path below the folder, width, height)`` of each; ids are unique, sizes in pixels.
    """

    def __init__(self, folder: Path, files: Iterable[tuple[int, str, int, int]]) -> None:
        self._folder = folder
        ids, names, widths, heights = map(list, zip(*files)) if (files := list(files)) else ([], [], [], [])
        order = np.argsort(np.array(ids, np.int64), kind="stable")
        encoded = [names[place].encode() for place in order.tolist()]
        self._ids = np.array(ids, np.int64)[order]
        self._sizes = np.array([widths, heights], np.int64)[:, order].astype(np.int32)
        self._names = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __getitem__(self, image_id: int) -> ImageFile:
        place = int(np.searchsorted(self._ids, image_id))
        if place == len(self._ids) or self._ids[place] != image_id:
            raise KeyError(image_id)
        name = self._names[self._ends[place]:self._ends[place + 1]].decode()
        return ImageFile(self._folder / name, int(self._sizes[0, place]), int(self._sizes[1, place]))

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids.tolist())

    def __len__(self) -> int:
        return len(self._ids)
