"""Training pairs of prompt learning: which stored regions, with which label and overlap; not their embeddings.

A proposal whose best overlap with a base object is 0.1 or more is a pair: of that object's class from IoU 0.5 on, else
background. Every annotated box with an embedding is a pair with IoU 1 (DetPro, sec. 3.4, and its released collection).
Pairs are 15-byte records in a file, in the order of the region store, so that neither collecting nor training holds
all of them.

Legend: N proposals, G objects, P pairs.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ovd.errors import UserError
from ovd.evaluation.recall import pairwise_iou

RECORD = np.dtype([("image", "<u4"), ("row", "<u4"), ("iou", "<f4"), ("label", "<i2"), ("truth", "u1")])
"""``image``: place of the image id in the region store's ids; ``row`` of the image in the store of proposals, or in
that of ground truth where ``truth``; ``label``: base class, or -1."""

LOWEST_IOU, FOREGROUND_IOU = 0.1, 0.5
MOST_CLASSES = int(np.iinfo(np.int16).max)
BLOCK = 4096  # records that are read, and shuffled, together


def proposal_pairs(boxes_N4: np.ndarray, objects_G4: np.ndarray, labels_G: np.ndarray) -> np.ndarray:
    """Records ``[P]`` of an image's proposals (``image`` is 0); of equal overlaps, the first object counts."""
    if not len(boxes_N4) or not len(objects_G4):
        return np.zeros(0, RECORD)
    iou_GN = pairwise_iou(objects_G4, boxes_N4)
    best_N, iou_N = iou_GN.argmax(axis=0), iou_GN.max(axis=0)
    rows = np.flatnonzero(iou_N >= LOWEST_IOU)
    pairs = np.zeros(len(rows), RECORD)
    pairs["row"], pairs["iou"] = rows, iou_N[rows]
    pairs["label"] = np.where(iou_N[rows] >= FOREGROUND_IOU, labels_G[best_N[rows]], -1)
    return pairs


def truth_pairs(boxes_M4: np.ndarray, objects_G4: np.ndarray, labels_G: np.ndarray) -> np.ndarray:
    """Records of an image's annotated boxes among the M of a ground-truth store.

    A row is an object when the boxes are equal in float32. Several objects with one box take its rows in order (their
    embeddings are the same); rows that are no base object's, such as novel ones, are left out.
    """
    rows_of: dict[bytes, list[int]] = {}
    for row, box in enumerate(np.ascontiguousarray(boxes_M4, "<f4")):
        rows_of.setdefault(box.tobytes(), []).append(row)
    found = []
    for box, label in zip(np.ascontiguousarray(objects_G4, "<f4"), labels_G.tolist()):
        if rows := rows_of.get(box.tobytes()):
            found.append((rows.pop(0), label))
    pairs = np.zeros(len(found), RECORD)
    if found:
        pairs["row"], pairs["label"] = np.array(found).T
    pairs["iou"], pairs["truth"] = 1, 1
    return pairs


class PairFile:
    """Reads the records that :func:`append` wrote, a block at a time.

    Raises:
        UserError: A file that is missing or cut.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        try:
            size = self.path.stat().st_size
        except OSError as error:
            raise UserError(f"{self.path}: cannot read the training pairs ({error.strerror})") from None
        if size % RECORD.itemsize:
            raise UserError(f"{self.path}: is cut; delete it and run ovd learn-prompts again")
        self._length = size // RECORD.itemsize

    def __len__(self) -> int:
        return self._length

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self._length // BLOCK)

    def read(self, block: int) -> np.ndarray:
        """The records of one block."""
        return np.fromfile(self.path, RECORD, BLOCK, offset=block * BLOCK * RECORD.itemsize)


def append(file: BinaryIO, pairs: np.ndarray) -> None:
    """Add records to a file that is open for writing."""
    file.write(np.ascontiguousarray(pairs, RECORD).tobytes())


@dataclass(frozen=True)
class Selection:
    """The pairs that one of the models is trained on, or (``held_out``) tried on.

    Attributes:
        positives: From, below: the IoU of pairs with a class.
        negatives: From, below: the IoU of background pairs.
        keep: Part of the background pairs that is used, drawn by ``seed``; DetPro: 1 / 10.
        holdout: Part of the images that is kept from training.
        held_out: The positives of exactly those images.
        seed: Of the draw of background pairs.
    """

    positives: tuple[float, float]
    negatives: tuple[float, float] = (LOWEST_IOU, FOREGROUND_IOU)
    keep: float = 0.1
    holdout: float = 0.0
    held_out: bool = False
    seed: int = 0

    def __call__(self, pairs: np.ndarray, first: int) -> np.ndarray:
        """Those of the records that are selected; ``first`` is the place of the first record in its file.

        A record's choice depends on its place and on nothing before it.
        """
        low, high = self.positives
        wanted = (pairs["label"] >= 0) & (pairs["iou"] >= low) & (pairs["iou"] < high)
        if not self.held_out and self.keep > 0:
            low, high = self.negatives
            background = (pairs["label"] < 0) & (pairs["iou"] >= low) & (pairs["iou"] < high)
            place = np.arange(first, first + len(pairs), dtype=np.uint64)
            wanted |= background & (_uniform(place, self.seed) < self.keep)
        if self.holdout or self.held_out:
            aside = _uniform(pairs["image"].astype(np.uint64), 0) < self.holdout  # the same images for every seed
            wanted &= aside if self.held_out else ~aside
        return pairs[wanted]

    def of(self, file: PairFile) -> Iterator[np.ndarray]:
        """The selected records of every block, in order."""
        for block in range(file.blocks):
            yield self(file.read(block), block * BLOCK)

    def counts(self, file: PairFile, classes: int) -> tuple[np.ndarray, int]:
        """Pairs of every class ``[C]``, and of background."""
        counts_C, background = np.zeros(classes, np.int64), 0
        for pairs in self.of(file):
            labels = pairs["label"].astype(np.int64)
            counts_C += np.bincount(labels[labels >= 0], minlength=classes)
            background += int((labels < 0).sum())
        return counts_C, background


def _uniform(numbers: np.ndarray, seed: int) -> np.ndarray:
    """A number in 0..1 for each of ``numbers`` (uint64), always the same: splitmix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        x = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed) * np.uint64(0xD1B54A32D192ED03)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53
