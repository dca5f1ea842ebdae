"""Hits of a search: regions with their boxes, of which those that show one object are one.

Shapes: Q queries, D width.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ovd.stores.region_index import RegionIndex
from ovd.stores.shards import RegionStore

OVERLAP = 0.5  # IoU beyond which two boxes of an image are taken for one object

_WIDER = 4  # proposals overlap: so many hits are looked at for each that is kept, then as many times more


@dataclass(frozen=True)
class Hit:
    """A region that was found.

    Attributes:
        score: its cosine to the query.
        position: its row within the image's regions in the store.
        box: x1, y1, x2, y2 in pixels of the image.
        objectness: the proposal's score.
    """

    score: float
    image_id: int
    position: int
    box: tuple[float, float, float, float]
    objectness: float


def find_hits(index: RegionIndex, store: RegionStore, queries_QD: np.ndarray, k: int,
              distinct: str = "object") -> list[list[Hit]]:
    """The ``k`` best hits of each query, best first; fewer where there are no more.

    Args:
        queries_QD: float32 unit rows.
        distinct: ``"object"`` leaves out boxes that overlap a better hit of their image by an IoU above
            :data:`OVERLAP`, ``"image"`` all but the best of an image, ``"off"`` none.
    """
    kept: list[list[Hit]] = [[] for _ in queries_QD]
    boxes = _Boxes(store)
    waiting = list(range(len(queries_QD)))
    wide = k if distinct == "off" else k * _WIDER
    while waiting:
        wide = min(wide, len(index))
        scores_QW, rows_QW = index.search(queries_QD[waiting], wide)
        for query, scores, rows in zip(waiting, scores_QW, rows_QW):
            kept[query] = _first_of_each(_ranked(index, scores, rows), boxes, k, distinct)
        if wide == len(index):
            break
        waiting = [query for query, rows in zip(waiting, rows_QW) if len(kept[query]) < min(k, wide) and rows[-1] >= 0]
        wide *= _WIDER
    return kept


class _Boxes:
    """Boxes and scores of images, each read once: hits come in no order of images, and a wider search repeats them."""

    def __init__(self, store: RegionStore) -> None:
        self._store = store
        self._read: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def of(self, image_id: int, position: int) -> tuple[tuple[float, float, float, float], float]:
        if image_id not in self._read:
            regions = self._store.view(image_id)
            self._read[image_id] = regions.boxes.copy(), regions.scores.copy()  # the file need not stay mapped
        boxes_N4, scores_N = self._read[image_id]
        return tuple(boxes_N4[position].tolist()), float(scores_N[position])


def _ranked(index: RegionIndex, scores: np.ndarray, rows: np.ndarray) -> Iterator[tuple[float, int, int]]:
    """Score, image id and position of the rows that are there."""
    there = rows >= 0
    image_ids, positions = index.locate(rows[there])
    return zip(scores[there].tolist(), image_ids.tolist(), positions.tolist())


def _first_of_each(ranked: Iterable[tuple[float, int, int]], boxes: _Boxes, k: int, distinct: str) -> list[Hit]:
    kept: list[Hit] = []
    boxes_of: dict[int, list[tuple[float, float, float, float]]] = {}
    for score, image_id, position in ranked:
        others = boxes_of.setdefault(image_id, [])
        if distinct == "image" and others:
            continue
        box, objectness = boxes.of(image_id, position)
        if distinct == "object" and any(overlap(box, other) > OVERLAP for other in others):
            continue
        others.append(box)
        kept.append(Hit(score, image_id, position, box, objectness))
        if len(kept) == k:
            break
    return kept


def overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
