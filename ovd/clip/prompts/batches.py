"""Batches of pairs with their embeddings, shuffled, read from the region stores as they are needed.

An epoch takes the blocks of the pair file in random order, fills a buffer with selected pairs, reads their embeddings
store by store in stored order, and deals them out in random order. Memory holds one buffer, whatever there is on disk;
with fewer pairs than the buffer takes, the shuffle is a full one.

Legend: N pairs of a batch, D width.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ovd.clip.prompts.pairs import BLOCK, PairFile, Selection
from ovd.stores.shards import RegionStore

BUFFER = 1 << 15  # pairs; of 512 numbers in half precision: 32 MB


class PairReader:
    """Reads the embeddings of pairs from the stores of proposals and of ground truth.

    Args:
        pairs: The index records.
        regions: The store of proposals, whose image ids the records count by.
        truth: The store of annotated boxes; None when no record is of it.
        buffer: Pairs that are held at a time.
    """

    def __init__(self, pairs: PairFile, regions: RegionStore, truth: RegionStore | None, buffer: int = BUFFER) -> None:
        self.pairs, self.stores, self.buffer = pairs, (regions, truth), buffer

    def batches(self, selection: Selection, size: int, seed: tuple[int, ...] | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Float32 embeddings ``[N, D]`` and labels long ``[N]`` (-1: background) of one pass over the selected pairs.

        Args:
            size: N; the last batch may be smaller.
            seed: Of the order, such as (seed, model, epoch); None for the order of the file.
        """
        rng = None if seed is None else np.random.default_rng(seed)
        rest_ND, rest_N = np.zeros((0, self.stores[0].dim), np.float16), np.zeros(0, np.int64)
        for chosen in self._buffers(selection, rng):
            embeddings_PD = self.read(chosen)
            order = np.arange(len(chosen)) if rng is None else rng.permutation(len(chosen))
            rest_ND = np.concatenate([rest_ND, embeddings_PD[order]])
            rest_N = np.concatenate([rest_N, chosen["label"][order].astype(np.int64)])
            del embeddings_PD
            full = len(rest_N) // size * size
            for first in range(0, full, size):
                yield _tensors(rest_ND[first:first + size], rest_N[first:first + size])
            rest_ND, rest_N = rest_ND[full:].copy(), rest_N[full:]
        if len(rest_N):
            yield _tensors(rest_ND, rest_N)

    def _buffers(self, selection: Selection, rng: np.random.Generator | None) -> Iterator[np.ndarray]:
        blocks = np.arange(self.pairs.blocks) if rng is None else rng.permutation(self.pairs.blocks)
        held: list[np.ndarray] = []
        for block in blocks.tolist():
            held.append(selection(self.pairs.read(block), block * BLOCK))
            if sum(map(len, held)) >= self.buffer:
                yield np.concatenate(held)
                held = []
        if sum(map(len, held)):
            yield np.concatenate(held)

    def read(self, pairs: np.ndarray) -> np.ndarray:
        """Embeddings of records, float16 ``[P, D]`` in their order; every shard and image is visited once."""
        embeddings_PD = np.empty((len(pairs), self.stores[0].dim), np.float16)
        order = np.lexsort((pairs["row"], pairs["image"], pairs["truth"]))
        ordered = pairs[order]
        another = (ordered["image"][1:] != ordered["image"][:-1]) | (ordered["truth"][1:] != ordered["truth"][:-1])
        starts = [0, *(np.flatnonzero(another) + 1).tolist()]
        for first, end in zip(starts, [*starts[1:], len(ordered)]):
            store = self.stores[int(ordered["truth"][first])]
            image_id = self.stores[0].image_ids[ordered["image"][first]]
            embeddings_PD[order[first:end]] = store.view(image_id).embeddings[ordered["row"][first:end]]
        return embeddings_PD


def _tensors(embeddings_ND: np.ndarray, labels_N: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(embeddings_ND.astype(np.float32)), torch.from_numpy(labels_N)
