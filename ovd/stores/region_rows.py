"""The regions of a whole store as the rows of one matrix, in order of image id, which is read in blocks.

Shapes: N rows, D width, B rows of a block, Q queries, K hits.
"""

from collections.abc import Iterator

import numpy as np
import torch

from ovd.errors import UserError
from ovd.stores.layout import Shard, shard_name
from ovd.stores.shards import RegionStore

BLOCK = 16384  # rows that are read and multiplied at a time


class RowMap:
    """Which row belongs to which image: an offset an image, no table of rows.

    Attributes:
        image_ids: int64 ``[I]``, ascending.
        offsets: int64 ``[I + 1]``; the rows of image ``i`` are ``offsets[i]:offsets[i + 1]``.
    """

    def __init__(self, image_ids: np.ndarray, offsets: np.ndarray) -> None:
        self.image_ids, self.offsets = image_ids, offsets

    @classmethod
    def of(cls, store: RegionStore) -> "RowMap":
        """That of a store; reads the offsets of its shards, no embeddings.

        Raises:
            UserError: a store of proposals, one without any region, a damaged shard.
        """
        if store.kind != "regions":
            raise UserError(f"{store.path}: a store of {store.kind} has no embeddings; make one with ovd embed-regions")
        total = store.manifest.counts["shards"]
        counts = [np.diff(Shard(store.path / shard_name(shard, total)).offset) for shard in range(total)]
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts), dtype=np.int64)])
        if not offsets[-1]:
            raise UserError(f"{store.path}: holds no regions; were there proposals when it was made?")
        return cls(store.image_ids, offsets)

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.offsets[-1])

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Image ids ``[n]`` and positions ``[n]`` (row within the image's regions) of rows ``[n]``; both int64.

        Raises:
            IndexError: a row that is not there, such as the -1 of a search that found fewer.
        """
        rows = np.asarray(rows, np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows must be 0 to {len(self) - 1}, got {rows.min()} to {rows.max()}")
        images = np.searchsorted(self.offsets, rows, side="right") - 1
        return self.image_ids[images], rows - self.offsets[images]

    def of_image(self, image_id: int) -> range:
        """The rows of an image; KeyError for one that is not there."""
        image = int(np.searchsorted(self.image_ids, image_id))
        if image == len(self.image_ids) or self.image_ids[image] != image_id:
            raise KeyError(image_id)
        return range(int(self.offsets[image]), int(self.offsets[image + 1]))


def row_blocks(store: RegionStore, size: int = BLOCK) -> Iterator[tuple[int, np.ndarray]]:
    """All rows of a store, in order: ``(number of the first, float16 [B, D])``, one block in memory at a time."""
    first, waiting, count = 0, [], 0
    for image_id in store.image_ids.tolist():
        rows = store.view(image_id).embeddings
        while len(rows):
            part, rows = rows[:size - count], rows[size - count:]
            waiting.append(part)
            count += len(part)
            if count == size:
                yield first, np.concatenate(waiting)
                first, waiting, count = first + size, [], 0
    if waiting:
        yield first, np.concatenate(waiting)


def take_rows(store: RegionStore, row_map: RowMap, rows: np.ndarray) -> np.ndarray:
    """The embeddings float16 ``[n, D]`` of rows ``[n]`` in any order; every image is opened once."""
    out = np.empty((len(rows), store.dim), np.float16)
    image_ids, positions = row_map.locate(rows)
    order = np.argsort(image_ids, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(image_ids[order])) + 1):
        if len(members):  # no rows split into one part without any
            out[members] = store.view(image_ids[members[0]]).embeddings[positions[members]]
    return out


class BestRows:
    """The K best rows of each query so far, by inner product, over blocks that are added one by one.

    Args:
        queries_QD: float32.
    """

    def __init__(self, queries_QD: np.ndarray, k: int) -> None:
        self._queries_DQ = torch.from_numpy(np.ascontiguousarray(queries_QD, np.float32)).T
        self._k = k
        count = len(queries_QD)
        self._scores_QK = torch.full((count, k), -torch.inf)
        self._rows_QK = torch.full((count, k), -1, dtype=torch.long)

    def add(self, first: int, rows_BD: np.ndarray) -> None:
        """Compare with a block, float16 ``[B, D]``, whose first row has the number ``first``."""
        scores_QB = (torch.from_numpy(rows_BD).float() @ self._queries_DQ).T
        scores, index = scores_QB.topk(min(self._k, len(rows_BD)), dim=1)
        scores = torch.cat([self._scores_QK, scores], dim=1)
        rows = torch.cat([self._rows_QK, index + first], dim=1)
        self._scores_QK, index = scores.topk(self._k, dim=1)
        self._rows_QK = rows.gather(1, index)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 ``[Q, K]``, descending, and rows int64 ``[Q, K]``: -inf and -1 where there are fewer."""
        return ranked(self._scores_QK.numpy(), self._rows_QK.numpy())


def ranked(scores_QK: np.ndarray, rows_QK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in descending order of score; equal scores by row."""
    order = np.lexsort((rows_QK, -scores_QK), axis=1)
    return np.take_along_axis(scores_QK, order, 1), np.take_along_axis(rows_QK, order, 1)
