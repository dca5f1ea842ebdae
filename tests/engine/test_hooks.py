"""Hooks: a loss that is not finite, resume points in the unit of the schedule, progress."""

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from mmengine.structures import BaseDataElement
from torch.utils.data import Dataset

from ovd.engine.hooks import ResumePointsHook
from ovd.engine.runner import DetectionRunner
from ovd.errors import UserError


@DATASETS.register_module()
class Pictures(Dataset):
    """Item i is the number i, with metadata as a detector's."""

    metainfo = {"classes": ("a",)}

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict:
        sample = BaseDataElement(metainfo={"img_path": f"folder/{index}.jpg", "img_id": index})
        return {"inputs": torch.tensor([float(index)]), "data_samples": sample}


class Line(BaseModel):
    """One weight; the loss of item ``poison`` is not finite."""

    def __init__(self, poison: float = -1.0, value: float = float("nan")) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.poison, self.value = poison, value

    def forward(self, inputs, data_samples=None, mode: str = "loss"):
        numbers = torch.stack(inputs)
        factor = torch.where(numbers == self.poison, self.value, 0.01)
        return {"loss": (factor * self.weight * numbers).mean()}


def make_runner(tmp_path, by_epoch: bool = False, **model) -> DetectionRunner:
    loop = {"type": "IterBasedTrainLoop", "max_iters": 20}
    if by_epoch:
        loop = {"type": "EpochBasedTrainLoop", "max_epochs": 3}
    loader = {"batch_size": 2, "collate_fn": {"type": "pseudo_collate"}, "dataset": {"type": Pictures},
              "sampler": {"type": DefaultSampler if by_epoch else InfiniteSampler, "shuffle": True}}
    return DetectionRunner.from_config(Config({
        "model": {"type": Line, **model}, "work_dir": str(tmp_path), "train_dataloader": loader, "train_cfg": loop,
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}}, "randomness": {"seed": 3},
        "default_hooks": {"checkpoint": {"type": ResumePointsHook}}}), torch.device("cpu"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_training_stops_before_a_non_finite_loss_changes_the_weights(tmp_path, value):
    runner = make_runner(tmp_path, poison=5.0, value=value)
    with pytest.raises(UserError) as error:
        runner.train()
    message = str(error.value)
    assert "folder/5.jpg" in message and message.count(".jpg") == 2
    assert f"the loss is {value} in iteration {runner.iter + 1}" in message
    assert torch.isfinite(runner.model.weight).all()


def test_resume_points_count_epochs_where_the_schedule_does(tmp_path):
    make_runner(tmp_path, by_epoch=True).train()
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == ["epoch_2.pth", "epoch_3.pth"]


def test_resume_points_are_a_tenth_of_the_iterations_apart(tmp_path):
    make_runner(tmp_path).train()
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == ["iter_18.pth", "iter_20.pth"]


def test_the_console_shows_progress_and_no_more(tmp_path, capfd):
    make_runner(tmp_path).train()
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""  # the bar is a hook of _base_/runtime.py, absent here
    logs = list(tmp_path.glob("*/*.log"))
    assert len(logs) == 1 and "loss" in logs[0].read_text()
