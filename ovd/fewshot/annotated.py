"""Annotated objects with their cached embeddings: a region store of annotated boxes, joined with its annotation file.

Such a store is made of ``ovd proposals CONFIG --from-annotations`` by ``ovd embed-regions``; its rows are the objects
in order of image id, and within an image in the annotation file's order.

Shapes: N objects, D embedding width.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ovd.data.annotations import Annotations
from ovd.data.boxes import corners
from ovd.errors import UserError
from ovd.stores.region_rows import RowMap, take_rows
from ovd.stores.shards import RegionStore
from ovd.vocabulary.classes import canonical

REMEDY = "make it again from this file: ovd proposals CONFIG --from-annotations, then ovd embed-regions --proposals"


@dataclass(frozen=True, eq=False)
class AnnotatedObjects:
    """The objects of an annotation file whose embeddings a store holds, in the order of the store's rows.

    Attributes:
        store: Their embeddings.
        names: The classes; a label is a position in it.
        image_ids, annotation_ids, labels: int64 ``[N]``.
        boxes: float64 ``[N, 4]`` x1, y1, x2, y2 in pixels, as annotated.
        row_map: Which rows are of which image.
        image_of: int64 ``[N]``, the position of each object's image among the store's.
        left_out: Annotations of these classes that have no embedding, since their boxes were too small for its crops or
            too many.
    """

    store: RegionStore
    names: tuple[str, ...]
    image_ids: np.ndarray
    annotation_ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    row_map: RowMap
    image_of: np.ndarray
    left_out: int

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def join(cls, store: RegionStore, annotations: Annotations, ann_file: str | os.PathLike,
             names: Sequence[str]) -> "AnnotatedObjects":
        """Say of every row of ``store`` which annotation it is. Crowds are no objects.

        Labels may have changed since the store was made, boxes may not.

        Raises:
            UserError: Images or boxes that only one of the two has; a store without regions.
        """
        row_map = RowMap.of(store)
        store.require_images(image.id for image in annotations.images)
        if len(store) != len(annotations.images):
            raise UserError(f"{store.path}: has {len(store):,} images, {ann_file} has {len(annotations.images):,}: the "
                            f"store is not of this file; {REMEDY}")
        label_of = {canonical(name): label for label, name in enumerate(names)}
        label_of = {c.id: label_of[canonical(c.name)] for c in annotations.categories if canonical(c.name) in label_of}
        by_image, found, left_out = annotations.by_image(), [], 0
        for image_id in store.image_ids.tolist():
            wanted = [a for a in by_image[image_id] if a.category_id in label_of and not a.iscrowd]
            here = _matching(corners([a.bbox for a in wanted]), store.view(image_id).boxes)
            if here is None:
                raise UserError(f"{store.path}: its boxes of image {image_id} are not those that {ann_file} has: the "
                                f"store is not of this file; {REMEDY}")
            found += [wanted[i] for i in here]
            left_out += len(wanted) - len(here)
        columns = np.array([(a.image_id, a.id, label_of[a.category_id]) for a in found], np.int64).T
        image_of = np.repeat(np.arange(len(store)), np.diff(row_map.offsets))
        return cls(store, tuple(names), *columns, corners([a.bbox for a in found]), row_map, image_of, left_out)

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """Unit rows float32 ``[len(rows), D]`` of any rows; fast for rows of neighbouring images."""
        taken = take_rows(self.store, self.row_map, np.asarray(rows, np.int64)).astype(np.float32)
        return taken / np.linalg.norm(taken, axis=1, keepdims=True)

    def blocks(self, size: int = 4096) -> Iterator[tuple[slice, np.ndarray]]:
        """All rows, at most ``size`` at a time: ``(slice, unit rows float32)``."""
        for start in range(0, len(self), size):
            block = slice(start, min(start + size, len(self)))
            yield block, self.embeddings(np.arange(block.start, block.stop))


def _matching(boxes_N4: np.ndarray, stored_M4: np.ndarray) -> list[int] | None:
    """Which of the boxes each stored one is, in order; None where one is none of them.

    The store has them in the same order and as float32, and may lack some.
    """
    boxes_N4 = boxes_N4.astype(np.float32)
    if np.array_equal(boxes_N4, stored_M4):
        return list(range(len(boxes_N4)))
    found, place = [], 0
    for stored in stored_M4:
        while place < len(boxes_N4) and not np.array_equal(boxes_N4[place], stored):
            place += 1
        if place == len(boxes_N4):
            return None
        found.append(place)
        place += 1
    return found
