"""The numbers of many annotations as arrays: what checks and splits look at."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ovd.data.annotation_checks import integers

if TYPE_CHECKING:
    from ovd.data.annotations import Annotation


@dataclass(frozen=True)
class Columns:
    """Fields of N annotations.

    Attributes:
        id, image_id, category_id: ``[N]`` int64.
        box: ``[N, 4]`` float64: x, y, width, height in pixels.
        area: ``[N]`` float64.
        mask_byte: ``[N]`` uint8, the first byte of the mask's json: ``n`` (null) where there is none.
    """

    id: np.ndarray
    image_id: np.ndarray
    category_id: np.ndarray
    box: np.ndarray
    area: np.ndarray
    mask_byte: np.ndarray

    @classmethod
    def of(cls, path: Path, records: "Sequence[Annotation]") -> "Columns":
        """The columns of decoded records; UserError that names ``path`` where an id needs more than 64 bits."""
        number = len(records)
        masks = map(attrgetter("mask_json"), records)
        boxes = np.fromiter(chain.from_iterable(map(attrgetter("bbox"), records)), np.float64, 4 * number)
        return cls(
            *(integers(path, "annotations", records, field) for field in ("id", "image_id", "category_id")),
            boxes.reshape(-1, 4), np.fromiter(map(attrgetter("area"), records), np.float64, number),
            np.fromiter((memoryview(mask or b"null")[0] for mask in masks), np.uint8, number),
        )  # fmt: skip

    @classmethod
    def join(cls, parts: "Sequence[Columns]") -> "Columns":
        """The rows of several, one after another."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def __getitem__(self, rows: np.ndarray) -> "Columns":
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    def __len__(self) -> int:
        return len(self.id)
