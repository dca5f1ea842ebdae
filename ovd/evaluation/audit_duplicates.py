"""Duplicates among annotated objects: boxes drawn twice in an image, and images or objects that occur twice.

Legend: N objects, P pairs, K neighbours, M images. Rows of objects are ordered by image.
"""

from collections.abc import Iterator

import numpy as np

PAIRS_AT_ONCE = 1 << 20


def connected_groups(count: int, pairs_P2: np.ndarray) -> np.ndarray:
    """The smallest member of each item's group, int64 ``[count]``, where pairs are in the same group.

    Union-find for all pairs at once: each root takes the smallest root that it is paired with, then paths are halved,
    until nothing changes (Shiloach and Vishkin, "An O(log n) parallel connectivity algorithm", 1982).
    """
    root = np.arange(count)
    first, second = np.asarray(pairs_P2, np.int64).reshape(-1, 2).T
    while True:
        low, high = np.sort([root[first], root[second]], axis=0)
        if np.array_equal(low, high):
            return root
        np.minimum.at(root, high, low)
        while not np.array_equal(halved := root[root], root):
            root = halved


def paired_iou(boxes_P4: np.ndarray, others_P4: np.ndarray) -> np.ndarray:
    """IoU ``[P]`` of boxes xyxy, pair by pair."""
    low = np.maximum(boxes_P4[:, :2], others_P4[:, :2])
    high = np.minimum(boxes_P4[:, 2:], others_P4[:, 2:])
    overlap = (high - low).clip(min=0).prod(axis=1)
    areas = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (boxes_P4, others_P4))
    union = sum(areas) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def double_boxes(boxes_N4: np.ndarray, offsets: np.ndarray, threshold: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of boxes of one image whose IoU is above the threshold: rows int64 ``[P, 2]``, and their IoU ``[P]``.

    Args:
        offsets: ``[M + 1]``; the rows of image i are ``offsets[i]:offsets[i + 1]``.
    """
    rows, ious = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
    for pairs_P2 in _pairs_within(np.asarray(offsets, np.int64)):
        iou_P = paired_iou(boxes_N4[pairs_P2[:, 0]], boxes_N4[pairs_P2[:, 1]])
        rows.append(pairs_P2[iou_P > threshold])
        ious.append(iou_P[iou_P > threshold])
    return np.concatenate(rows), np.concatenate(ious)


def _pairs_within(offsets: np.ndarray) -> Iterator[np.ndarray]:
    """All pairs of rows of one image, the smaller first, ``[P, 2]``, about ``PAIRS_AT_ONCE`` at a time."""
    followers = np.repeat(offsets[1:], np.diff(offsets)) - np.arange(offsets[-1]) - 1  # of its image, after each row
    start = 0
    ends = np.cumsum(followers)
    while start < len(followers):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + PAIRS_AT_ONCE, side="right")))
        mine = followers[start:stop]
        low = np.repeat(np.arange(start, stop), mine)
        within = np.arange(mine.sum()) - np.repeat(np.cumsum(mine) - mine, mine)
        yield np.stack([low, low + 1 + within], axis=1)
        start = stop


def similar_pairs(scores_NK: np.ndarray, rows_NK: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of an object and a neighbour with a cosine of at least ``threshold``, each once: rows ``[P, 2]``, cosines.

    Pairs are in order of their rows, the smaller first.
    """
    near = (rows_NK >= 0) & (scores_NK >= threshold)
    objects = np.nonzero(near)[0]
    pairs = np.sort(np.stack([objects, rows_NK[near]], axis=1).astype(np.int64), axis=1)
    pairs_P2, first = np.unique(pairs, axis=0, return_index=True)
    return pairs_P2, scores_NK[near][first]


def same_place(boxes_P4: np.ndarray, others_P4: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Whether the boxes of a pair are at the same place of their images, as they are or mirrored: int ``[P]``.

    1 as they are, -1 when one image is mirrored left to right, 0 for neither.

    Args:
        boxes_P4, others_P4: In shares of the image's width and height, 0 to 1.
        threshold: IoU from which two boxes are at the same place.
    """
    upright = paired_iou(boxes_P4, others_P4)
    mirrored = others_P4.copy()
    mirrored[:, [0, 2]] = 1 - others_P4[:, [2, 0]]
    turned = paired_iou(boxes_P4, mirrored)
    return np.where(np.maximum(upright, turned) < threshold, 0, np.where(upright >= turned, 1, -1))


def image_pairs(pairs_P2: np.ndarray, image_of_N: np.ndarray, objects_of_M: np.ndarray,
                share: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of images that share objects, from pairs of similar objects: images ``[Q, 2]`` and shared objects ``[Q]``.

    Shared are at least ``share`` of the objects of the image that has fewer. An object counts once, however many it is
    similar to: the number is the smaller of the numbers of objects that have a partner, on either side.

    Args:
        image_of_N: Position of each object's image, below M.
        objects_of_M: Number of objects of each image.
    """
    images = image_of_N[pairs_P2]
    swap = images[:, 0] > images[:, 1]
    images[swap], pairs_P2 = images[swap][:, ::-1], np.where(swap[:, None], pairs_P2[:, ::-1], pairs_P2)
    apart = images[:, 0] != images[:, 1]
    images, pairs_P2 = images[apart], pairs_P2[apart]
    keys, which = np.unique(images, axis=0, return_inverse=True)
    which = which.reshape(-1)
    shared = np.minimum(*(np.bincount(np.unique(np.stack([which, pairs_P2[:, side]], axis=1), axis=0)[:, 0],
                                      minlength=len(keys)) for side in (0, 1)))
    enough = shared >= share * np.minimum(objects_of_M[keys[:, 0]], objects_of_M[keys[:, 1]])
    return keys[enough], shared[enough]
