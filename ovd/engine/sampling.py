"""Training data as a function of the seed and the position in the stream of samples, and of nothing else.

mmengine draws augmentations from generators whose state is lost when a run is interrupted, and which depend on the
number of workers. Here every draw is numbered, and its augmentation is seeded with that number: a run that was
interrupted and resumed, or that is spread over more workers or processes, sees the same pictures.
"""

import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.registry import DATA_SAMPLERS, DATASETS
from torch.utils.data import BatchSampler, Dataset, Sampler

from ovd.errors import UserError


class Draw(int):
    """An index into a dataset that knows its number in the stream of samples."""

    number: int

    def __new__(cls, index: int, number: int) -> "Draw":
        draw = super().__new__(cls, index)
        draw.number = number
        return draw

    def __reduce__(self) -> tuple:
        return Draw, (int(self), self.number)


class NumberedSampler(Sampler):
    """A sampler whose indices are :class:`Draw`, numbered over all epochs and ranks.

    Args:
        sampler: config of mmengine's ``DefaultSampler`` or ``InfiniteSampler``, or of one with their attributes.
        dataset: what is sampled.
        seed: decides the order.
    """

    def __init__(self, sampler: dict, dataset: Dataset, seed: int | None = None) -> None:
        self.sampler = DATA_SAMPLERS.build(sampler, default_args={"dataset": dataset, "seed": seed})
        self.dataset = dataset  # read by mmdet's batch samplers
        self.skipped = 0

    def __iter__(self) -> Iterator[Draw]:
        rank, ranks = self.sampler.rank, self.sampler.world_size
        start = self.skipped + getattr(self.sampler, "epoch", 0) * len(self.sampler)
        for count, index in enumerate(self.sampler, start):
            yield Draw(index, count * ranks + rank)

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Begin another epoch: another order, and numbers that go on."""
        self.sampler.set_epoch(epoch)

    def skip(self, num_samples: int) -> None:
        """Start ``num_samples`` into this rank's stream (for resuming a run that counts iterations)."""
        self.sampler.skip(num_samples)
        self.skipped = num_samples


class SkippableBatches(BatchSampler):
    """A batch sampler that can start some batches into its stream, without any data being loaded.

    Args:
        batches: config of the batch sampler, such as mmdet's ``AspectRatioBatchSampler``.
        sampler: what it draws from.
        batch_size: samples in a batch.
    """

    def __init__(self, batches: dict, sampler: Sampler, batch_size: int) -> None:
        self.batches = DATA_SAMPLERS.build(batches, default_args={"sampler": sampler, "batch_size": batch_size})
        self.sampler = sampler  # read by mmengine, to begin an epoch
        self.batch_size = batch_size
        self.skipped = 0

    def __iter__(self) -> Iterator[list[Draw]]:
        skipped, self.skipped = self.skipped, 0
        return itertools.islice(self.batches, skipped, None)

    def __len__(self) -> int:
        return len(self.batches)

    def skip(self, num_batches: int) -> None:
        """Leave out the first batches of the next pass (for resuming a run that counts iterations)."""
        self.skipped = num_batches


class ReplayableDataset(Dataset):
    """A dataset whose augmentations are seeded by ``seed`` and the number of the draw.

    Everything else is the wrapped dataset's (``metainfo``, ``get_data_info``, ...).

    Args:
        dataset: config of the dataset.
        seed: of the augmentations.
    """

    def __init__(self, dataset: dict, seed: int) -> None:
        self.dataset = DATASETS.build(dataset)
        self.seed = seed

    def full_init(self) -> None:
        """Read the annotations, where that was put off."""
        if hasattr(self.dataset, "full_init"):
            self.dataset.full_init()
        if len(self.dataset) == 0:
            raise UserError(f"{getattr(self.dataset, 'ann_file', 'the dataset')}: no image is left to use")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: int) -> Any:
        if isinstance(draw, Draw):
            seed_everything(self.seed, draw.number)
        return self.dataset[int(draw)]

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # while being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


def seed_everything(*key: int) -> None:
    """Seed Python's, numpy's and torch's generators from a tuple of numbers, such as (seed, iteration, rank)."""
    state = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(int(state[1]))  # noqa: NPY002 - mmcv and mmdet draw from the global generator
    torch.manual_seed(int(state[2]))
