"""A line of JSON an evaluation: what is in it, what is not there, and what an interruption leaves."""

import json
import math

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS
from mmengine.structures import BaseDataElement
from torch.utils.data import Dataset

from ovd.engine.result_lines import append_line, result_line
from ovd.engine.runner import DetectionRunner

BOX = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
BOX_KEYS = ["boxAP", "bAP50", "bAP75", "bAP-s", "bAP-m", "bAP-l"]
MASK_KEYS = ["mskAP", "mAP50", "mAP75", "mAP-s", "mAP-m", "mAP-l"]


def figures(*groups: str, masks: bool = True) -> dict[str, float]:
    names = [*BOX, *(f"mask_{name}" for name in BOX if masks)]
    return {f"{group}/{name}": 10.0 * i + j for i, group in enumerate(groups) for j, name in enumerate(names)}


def test_a_line_has_the_figures_of_all_classes():
    line = result_line({**figures("all"), "all/accuracy": 3.0}, {})
    assert list(line) == [*BOX_KEYS, *MASK_KEYS, "easy", "hard"]
    assert [line[key] for key in BOX_KEYS + MASK_KEYS] == list(range(12))


def test_base_and_novel_are_there_where_there_are_novel_classes():
    line = result_line(figures("base", "novel", "all"), {})
    assert line["base"]["boxAP"] == 0 and line["novel"]["mskAP"] == 16 and line["boxAP"] == 20
    no_novel = {name: math.nan if name.startswith("novel") else value
                for name, value in figures("base", "novel", "all").items()}
    assert "novel" not in result_line(no_novel, {}) and "base" not in result_line(no_novel, {})


def test_models_without_masks_have_no_mask_figures():
    assert list(result_line(figures("all", masks=False), {})) == [*BOX_KEYS, "easy", "hard"]


def test_what_is_missing_is_left_out_or_null():
    line = result_line({"all/ap": math.nan, "all/ap50": torch.tensor(3.25), "all/ap75": np.float64("inf"),
                        "all/ap_small": None}, {"a": math.nan})
    assert line == {"boxAP": None, "bAP50": 3.25, "bAP75": None, "bAP-s": None, "easy": {}, "hard": {}}
    assert result_line({}, {}) == {"easy": {}, "hard": {}}


def test_easy_and_hard_are_the_seven_best_and_worst():
    rng = np.random.default_rng(0)
    by_class = {f"class{number}": float(rng.random()) for number in range(30)} | {"none": math.nan}
    line = result_line({}, by_class)
    ranked = sorted((ap, name) for name, ap in by_class.items() if ap == ap)
    assert list(line["hard"]) == [name for _, name in ranked[:7]]
    assert list(line["easy"]) == [name for _, name in ranked[::-1][:7]]
    assert line["easy"][ranked[-1][1]] == round(ranked[-1][0], 3)
    few = result_line({}, {"a": 1.0, "b": 2.0})
    assert list(few["easy"]) == ["b", "a"] and list(few["hard"]) == ["a", "b"]


def test_a_line_that_was_cut_off_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "results.jsonl"
    append_line(path, {"a": 1})
    with path.open("ab") as file:
        file.write(b'{"a": ')
    append_line(path, {"a": "Käse"})
    assert path.read_bytes().split(b"\n") == [b'{"a": 1}', b'{"a": ', '{"a": "Käse"}'.encode(), b""]


@DATASETS.register_module()
class Numbers(Dataset):
    """Items without a meaning."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict:
        return {"inputs": torch.ones(1), "data_samples": BaseDataElement(metainfo={"img_id": index})}


class Weight(BaseModel):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs, data_samples=None, mode: str = "loss"):
        return {"loss": (self.weight * torch.stack(inputs)).mean()} if mode == "loss" else data_samples


@METRICS.register_module()
class Constant(BaseMetric):
    """The figures of a detector without masks, one of them not a number; no AP of classes."""

    def process(self, data_batch, data_samples) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict:
        return {"all/ap": 40.0, "all/ap50": math.nan}


@METRICS.register_module()
class ConstantOfClasses(Constant):
    """The same with AP of classes."""

    class_ap = {"bbox": {"cat": 55.0, "hair drier": 0.0}}


def make_runner(folder, metric, by_epoch=False, **sections) -> DetectionRunner:
    loop = {"type": "IterBasedTrainLoop", "max_iters": 6, "val_interval": 2}
    if by_epoch:
        loop = {"type": "EpochBasedTrainLoop", "max_epochs": 2, "val_interval": 1}
    loader = {"batch_size": 2, "collate_fn": {"type": "pseudo_collate"}, "dataset": {"type": Numbers},
              "sampler": {"type": DefaultSampler, "shuffle": False}}
    training = {**loader, "sampler": {"type": DefaultSampler if by_epoch else InfiniteSampler}}
    config = {"model": {"type": Weight}, "work_dir": str(folder), "train_dataloader": training, "train_cfg": loop,
              "val_dataloader": loader, "val_cfg": {"type": "ValLoop"}, "val_evaluator": {"type": metric},
              "test_dataloader": loader, "test_cfg": {"type": "TestLoop"}, "test_evaluator": {"type": metric},
              "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}}, **sections}
    return DetectionRunner.from_config(Config(config, filename=None), torch.device("cpu"))


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("metric", [Constant, ConstantOfClasses])
def test_every_evaluation_of_a_run_leaves_a_line(tmp_path, metric):
    make_runner(tmp_path, metric).train()
    found = lines(tmp_path)
    assert [(line["kind"], line["iteration"], line["epoch"]) for line in found] == [
        ("val", 2, None), ("val", 4, None), ("val", 6, None)]
    assert [line["remaining"] is None or line["remaining"] >= 0 for line in found] == [True] * 3
    assert found[-1]["remaining"] == 0 and len(found[-1]["finish"]) == 19
    assert found[0]["boxAP"] == 40 and found[0]["bAP50"] is None and "mskAP" not in found[0]
    assert found[0]["easy"] == ({"cat": 55.0, "hair drier": 0.0} if metric is ConstantOfClasses else {})


def test_lines_of_epochs_and_of_a_resumed_run_and_of_a_test(tmp_path):
    runner = make_runner(tmp_path, Constant, by_epoch=True)
    runner.train()
    assert [(line["iteration"], line["epoch"]) for line in lines(tmp_path)] == [(2, 1), (4, 2)]
    make_runner(tmp_path, Constant, by_epoch=True, load_from=str(tmp_path / "epoch_1.pth"), resume=True).train()
    assert [line["epoch"] for line in lines(tmp_path)] == [1, 2, 2]
    tester = make_runner(tmp_path, Constant, load_from=str(tmp_path / "epoch_2.pth"), train_dataloader=None,
                         train_cfg=None, optim_wrapper=None)
    tester.test()
    last = lines(tmp_path)[-1]
    assert last["kind"] == "test" and (last["iteration"], last["epoch"]) == (4, 2)
    assert last["remaining"] is None and last["finish"] is None and last["config"]
