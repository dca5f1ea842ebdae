"""Hits of a search: regions with their boxes, of which those that show one object are one.

Shapes: Q queries, D width.
"""

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
    waiting = list(range(len(queries_QD)))
    wide = k if distinct == "off" else k * _WIDER
    while waiting:
        wide = min(wide, len(index))
        scores_QW, rows_QW = index.search(queries_QD[waiting], wide)
        for query, scores, rows in zip(waiting, scores_QW, rows_QW):
            kept[query] = _first_of_each(_hits(index, store, scores, rows), k, distinct)
        if wide == len(index):
            break
        waiting = [query for query, rows in zip(waiting, rows_QW) if len(kept[query]) < min(k, wide) and rows[-1] >= 0]
        wide *= _WIDER
    return kept


def _hits(index: RegionIndex, store: RegionStore, scores: np.ndarray, rows: np.ndarray) -> list[Hit]:
    there = rows >= 0
    image_ids, positions = index.locate(rows[there])
    hits = []
    for score, image_id, position in zip(scores[there].tolist(), image_ids.tolist(), positions.tolist()):
        regions = store.view(image_id)
        hits.append(Hit(score, image_id, position, tuple(regions.boxes[position].tolist()),
                        float(regions.scores[position])))
    return hits


def _first_of_each(hits: list[Hit], k: int, distinct: str) -> list[Hit]:
    kept: list[Hit] = []
    boxes_of: dict[int, list[tuple[float, float, float, float]]] = {}
    for hit in hits:
        others = boxes_of.setdefault(hit.image_id, [])
        if (distinct == "image" and others) or \
                (distinct == "object" and any(overlap(hit.box, other) > OVERLAP for other in others)):
            continue
        others.append(hit.box)
        kept.append(hit)
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
