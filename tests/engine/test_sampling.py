"""Draws: numbered, seeded, and the same whether a run was interrupted, or spread over processes or workers."""

import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.registry import DATASETS
from torch.utils.data import DataLoader, Dataset

from ovd.engine.sampling import Draw, NumberedSampler, ReplayableDataset, SkippableBatches, seed_everything
from ovd.errors import UserError


@DATASETS.register_module()
class NoisyNumbers(Dataset):
    """Item i is i with noise from the three generators that augmentations draw from."""

    ann_file = "noisy.json"

    def __init__(self, size: int = 10) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[int, float]:
        noise = random.random() + np.random.rand() + torch.rand(()).item()  # noqa: NPY002
        return index, noise

    def get_data_info(self, index: int) -> dict:
        return {"width": 10 if index % 3 else 5, "height": 7}


def numbered(kind, rank: int = 0, ranks: int = 1, size: int = 10) -> NumberedSampler:
    sampler = NumberedSampler({"type": kind, "shuffle": True}, NoisyNumbers(size), seed=5)
    sampler.sampler.rank, sampler.sampler.world_size = rank, ranks
    if hasattr(sampler.sampler, "num_samples"):
        sampler.sampler.num_samples = -(-size // ranks)
        sampler.sampler.total_size = sampler.sampler.num_samples * ranks
    return sampler


def take(sampler, count: int) -> list[tuple[int, int]]:
    return [(int(draw), draw.number) for draw, _ in zip(sampler, range(count))]


def test_numbers_go_on_over_epochs():
    sampler = numbered(DefaultSampler)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert [draw.number for draw in first + second] == list(range(20))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


@pytest.mark.parametrize("kind", [DefaultSampler, InfiniteSampler])
def test_processes_share_the_stream_of_one(kind):
    alone = take(numbered(kind), 10)
    parts = [take(numbered(kind, rank, 2), 5) for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == sorted(alone)
    assert parts[0] == alone[0::2] and parts[1] == alone[1::2]


def test_a_skipped_stream_goes_on_where_it_was():
    alone = take(numbered(InfiniteSampler), 40)
    resumed = numbered(InfiniteSampler)
    resumed.skip(13)
    assert take(resumed, 27) == alone[13:]


def test_skipped_batches_go_on_where_they_were():
    def batches():
        return SkippableBatches({"type": "mmdet.AspectRatioBatchSampler"}, numbered(InfiniteSampler), batch_size=3)

    alone = [batch for batch, _ in zip(batches(), range(12))]
    resumed = batches()
    resumed.skip(5)
    rest = [batch for batch, _ in zip(resumed, range(7))]
    assert rest == alone[5:]
    assert [[draw.number for draw in batch] for batch in rest] == [[d.number for d in batch] for batch in alone[5:]]
    assert all(len({index % 3 == 0 for index in batch}) == 1 for batch in alone)


def test_augmentation_depends_on_seed_and_number_only():
    data = ReplayableDataset({"type": NoisyNumbers}, seed=1)
    first = data[Draw(3, 70)]
    random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    assert data[Draw(3, 70)] == first
    assert data[Draw(3, 71)] != first
    assert ReplayableDataset({"type": NoisyNumbers}, seed=2)[Draw(3, 70)] != first


def test_workers_do_not_change_what_is_drawn():
    def items(workers: int) -> list:
        data = ReplayableDataset({"type": NoisyNumbers}, seed=1)
        loader = DataLoader(data, sampler=NumberedSampler({"type": DefaultSampler}, data, seed=5), batch_size=2,
                            num_workers=workers)
        return [(i.tolist(), noise.tolist()) for i, noise in loader]

    assert items(0) == items(2)


def test_draws_survive_the_way_to_a_worker():
    draw = pickle.loads(pickle.dumps(Draw(4, 99)))
    assert (draw, draw.number) == (4, 99)


def test_a_wrapped_dataset_keeps_its_attributes():
    data = ReplayableDataset({"type": NoisyNumbers}, seed=1)
    assert data.ann_file == "noisy.json" and len(data) == 10
    with pytest.raises(AttributeError):
        data.no_such_thing  # noqa: B018
    pickle.loads(pickle.dumps(data))


def test_an_empty_dataset_is_refused():
    with pytest.raises(UserError, match=r"noisy\.json: no image is left"):
        ReplayableDataset({"type": NoisyNumbers, "size": 0}, seed=1).full_init()


def test_seeds_of_neighbouring_numbers_are_unrelated():
    values = []
    for number in range(50):
        seed_everything(0, number)
        values.append((random.random(), np.random.rand(), torch.rand(()).item()))  # noqa: NPY002
    assert np.abs(np.corrcoef(np.array(values).T) - np.eye(3)).max() < 0.6
    assert np.array(values).std(axis=0).min() > 0.2
