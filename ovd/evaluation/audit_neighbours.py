"""The nearest neighbours of annotated objects in other images.

Legend: N objects, B of them in a block, K neighbours, W found before some are left out. Neighbours are rows of objects
in descending order of cosine, -1 (and a cosine of -inf) where there are fewer.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from ovd.fewshot.annotated import AnnotatedObjects

BLOCK = 1024  # objects that are searched for at a time


class Index(Protocol):
    """What is needed of :class:`ovd.stores.region_index.RegionIndex`."""

    def search(self, queries_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and rows ``[Q, K]`` of the nearest rows."""
        ...


def neighbours_elsewhere(index: Index, objects: AnnotatedObjects, k: int,
                         progress: Callable[[int], None] = lambda objects: None) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest objects in other images than an object's own: cosines float32 and rows int32, ``[N, K]``."""
    scores = np.full((len(objects), k), -np.inf, np.float32)
    rows = np.full((len(objects), k), -1, np.int32)
    per_image = np.diff(objects.row_map.offsets)
    for block, queries_BD in objects.blocks(BLOCK):
        own_B = objects.image_of[block]
        found = index.search(queries_BD, min(k + int(per_image[own_B].max()), len(objects)))
        scores[block], rows[block] = first_elsewhere(*found, own_B, objects.image_of, k)
        progress(len(queries_BD))
    return scores, rows


def first_elsewhere(scores_BW: np.ndarray, rows_BW: np.ndarray, own_B: np.ndarray, place_of_N: np.ndarray,
                    k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first k neighbours of each object whose place (image, or group of images) is not the object's own."""
    elsewhere = (rows_BW >= 0) & (place_of_N[rows_BW] != np.asarray(own_B)[:, None])
    order = np.argsort(~elsewhere, axis=1, kind="stable")[:, :k]
    kept = np.take_along_axis(elsewhere, order, axis=1)
    missing = ((0, 0), (0, k - order.shape[1]))
    scores = np.where(kept, np.take_along_axis(scores_BW, order, axis=1), -np.inf)
    rows = np.where(kept, np.take_along_axis(rows_BW, order, axis=1), -1)
    return np.pad(scores, missing, constant_values=-np.inf), np.pad(rows, missing, constant_values=-1)
