"""Batch-normalisation statistics recomputed over batches, against plain averaging over all that was seen."""

import itertools
import multiprocessing

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import Dataset

from ovd.engine.checkpoints import read_checkpoint
from ovd.engine.hooks import ResumePointsHook
from ovd.engine.precise_bn import PreciseBNHook, recompute_statistics
from ovd.engine.runner import DetectionRunner
from ovd.engine.sampling import NumberedSampler, ReplayableDataset
from ovd.errors import UserError


@DATASETS.register_module()
class NoisePictures(Dataset):
    """Item i is a vector of three numbers."""

    metainfo = {"classes": ("a",)}

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict:
        values = torch.randn(3, generator=torch.Generator().manual_seed(index)) + torch.rand(1)  # "augmented"
        return {"inputs": values, "data_samples": BaseDataElement(metainfo={"img_path": f"{index}.jpg"})}


class Normalised(BaseModel):
    """Two batch normalisations, one of them frozen, and a counter of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.frozen, self.layer = nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.Linear(3, 2)
        self.second = nn.BatchNorm1d(2)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.seen: list[torch.Tensor] = []

    def train(self, mode: bool = True):
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, inputs, data_samples=None, mode: str = "loss"):
        values = self.frozen(torch.stack(list(inputs)))
        if self.training:
            self.steps += 1
        self.seen.append(values.detach())
        return {"loss": (self.second(self.layer(self.first(values))) ** 3 - 1).abs().mean() + torch.rand(1) * 0}


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(2, 5)), min_size=1, max_size=4),
       offset=st.sampled_from([0.0, -3.0, 1e4]), seed=st.integers(0, 99))
def test_statistics_are_those_of_everything_that_was_seen(sizes, offset, seed):
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randn(n, 3, side, side, generator=generator) * 2 + offset for n, side in sizes]
    layer = nn.BatchNorm2d(3)
    layer.running_mean += 5
    assert recompute_statistics(nn.Sequential(layer), batches, layer) == (1, len(batches))
    everything = torch.cat([batch.transpose(0, 1).reshape(3, -1) for batch in batches], dim=1).double()
    torch.testing.assert_close(layer.running_mean, everything.mean(1).float())
    torch.testing.assert_close(layer.running_var, everything.var(1).float(), rtol=1e-4,
                               atol=1e-6 + 4e-7 * abs(offset))  # a mean in float32 is no nearer
    assert int(layer.num_batches_tracked) == 0


def test_batches_of_one_size_average_as_momentum_one_does():
    torch.manual_seed(0)
    batches = [torch.randn(6, 4) for _ in range(5)]
    layer, plain = nn.BatchNorm1d(4), nn.BatchNorm1d(4, momentum=None)  # cumulative average
    recompute_statistics(layer, batches, layer)
    for batch in batches:
        plain(batch)
    torch.testing.assert_close(layer.running_mean, plain.running_mean)
    assert not torch.allclose(layer.running_var, plain.running_var)  # which misses the variance between batches


def test_what_is_frozen_or_unused_or_counts_is_left_alone():
    model = Normalised().train()
    model.unused = nn.BatchNorm1d(3)
    before = {name: value.clone() for name, value in model.named_buffers()}
    layers, batches = recompute_statistics(model, [torch.randn(4, 3) for _ in range(3)], model)
    assert (layers, batches) == (2, 3)
    after = dict(model.named_buffers())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{name}.running_{kind}" for name in ("first", "second") for kind in ("mean", "var")}


def _one_of_two(rank: int, folder: str, batches: list[torch.Tensor]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    layer = nn.BatchNorm2d(3)
    recompute_statistics(layer, batches, layer)
    torch.save(layer.state_dict(), f"{folder}/{rank}.pth")
    dist.destroy_process_group()


def test_processes_share_their_statistics(tmp_path):
    torch.manual_seed(0)
    shares = [[torch.randn(2, 3, 4, 4), torch.randn(1, 3, 2, 2) + 3],
              [torch.randn(5, 3, 3, 3) - 2, torch.zeros(0, 3, 2, 2)]]  # one process has a batch without RoIs
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_one_of_two, args=(rank, str(tmp_path), share))
                 for rank, share in enumerate(shares)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    everything = torch.cat([batch.transpose(0, 1).reshape(3, -1) for share in shares for batch in share], dim=1)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pth")
        torch.testing.assert_close(found["running_mean"], everything.mean(1))
        torch.testing.assert_close(found["running_var"], everything.var(1))


def test_an_error_leaves_the_statistics_as_they_were():
    layer = nn.BatchNorm1d(2)
    with pytest.raises(ValueError):
        recompute_statistics(nn.Sequential(layer), [torch.randn(4, 2), torch.randn(1, 2)], layer)
    assert torch.equal(layer.running_mean, torch.zeros(2)) and not layer._forward_pre_hooks


def run(folder, by_epoch: bool = False, resume: str | None = None, workers: int = 0, **hook) -> DetectionRunner:
    loop = {"type": "IterBasedTrainLoop", "max_iters": 10, "val_interval": 4}
    if by_epoch:
        loop = {"type": "EpochBasedTrainLoop", "max_epochs": 3, "val_interval": 2}
    loader = {"batch_size": 3, "num_workers": workers, "collate_fn": {"type": "pseudo_collate"},
              "dataset": {"type": NoisePictures},
              "sampler": {"type": DefaultSampler if by_epoch else InfiniteSampler, "shuffle": True}}
    runner = DetectionRunner.from_config(Config({
        "model": {"type": Normalised}, "work_dir": str(folder), "train_dataloader": loader, "train_cfg": loop,
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}}, "randomness": {"seed": 3},
        "load_from": resume, "resume": resume is not None,
        "custom_hooks": [{"type": PreciseBNHook, "batches": 5, **hook}],
        "default_hooks": {"checkpoint": {"type": ResumePointsHook, "interval": 1, "max_keep_ckpts": 99}}}),
        torch.device("cpu"))
    runner.train()
    return runner


def statistics(path) -> dict[str, torch.Tensor]:
    return {name: value for name, value in read_checkpoint(path)["state_dict"].items() if "running" in name}


def precise(path, sampler: type = InfiniteSampler) -> bool:
    """Whether a checkpoint's statistics are those of its weights over the first five batches of the stream."""
    model = Normalised().train()
    model.load_state_dict(read_checkpoint(path)["state_dict"])
    data = ReplayableDataset({"type": NoisePictures}, 3)
    numbered = NumberedSampler({"type": sampler, "shuffle": True}, data, seed=3)
    draws = list(itertools.islice(itertools.chain.from_iterable(itertools.repeat(numbered)), 15))
    batches = [[data[draw]["inputs"] for draw in draws[start:start + 3]] for start in range(0, 15, 3)]
    recompute_statistics(model, batches, model)
    expected = {name: value for name, value in model.state_dict().items() if "running" in name}
    return all(torch.allclose(value, expected[name]) for name, value in statistics(path).items())


def test_checkpoints_of_evaluated_iterations_and_the_last_one_are_precise(tmp_path):
    runner = run(tmp_path)
    found = [number for number in range(1, 11) if precise(tmp_path / f"iter_{number}.pth")]
    assert found == [4, 8, 10]
    assert int(runner.model.steps) == 10  # the model's own counter knows nothing of it
    run(tmp_path / "often", interval=3)
    assert [n for n in range(1, 11) if precise(tmp_path / "often" / f"iter_{n}.pth")] == [3, 6, 9, 10]


def test_a_resumed_run_has_the_same_statistics_and_the_hook_does_not_touch_training(tmp_path):
    run(tmp_path / "whole")
    run(tmp_path / "parts", resume=str(tmp_path / "whole" / "iter_6.pth"))
    whole, parts = (read_checkpoint(tmp_path / name / "iter_10.pth")["state_dict"] for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    run(tmp_path / "workers", workers=2)
    workers = read_checkpoint(tmp_path / "workers" / "iter_10.pth")["state_dict"]
    assert all(torch.equal(whole[name], workers[name]) for name in whole)
    run(tmp_path / "without", interval=99)
    without = read_checkpoint(tmp_path / "without" / "iter_10.pth")["state_dict"]
    assert all(torch.equal(whole[name], without[name]) for name in whole)  # weights; statistics of the last are equal


def test_in_schedules_of_epochs_a_small_dataset_is_gone_through_again(tmp_path):
    run(tmp_path, by_epoch=True)
    assert [n for n in (1, 2, 3) if precise(tmp_path / f"epoch_{n}.pth", DefaultSampler)] == [2, 3]


def test_settings_below_one_are_refused():
    for wrong in ({"batches": 0}, {"interval": 0}):
        with pytest.raises(UserError, match="at least 1"):
            PreciseBNHook(**wrong)
