"""Two CPU processes over gloo train and test to the same result as one.

Losses are normalised in each process, as in mmdet: by its own counts of anchors, RoIs, positives and regions. The mean
over two processes of one image each is therefore exactly what one process reaches by accumulating the gradients of two
batches of one image; and it equals one batch of two images where both images have the same counts.
"""

import json
import math
import os
import subprocess
import sys

import pytest
from tiny_world import write_caches, write_world

from ovd.engine.checkpoints import read_checkpoint
from pipelines.test import evaluate
from pipelines.train import train

# nothing is drawn at random by the model, and every image has the same number of anchors, RoIs and regions
EVEN = {"train_dataloader.batch_size": 1, "param_scheduler": [], "model.roi_head.distillation.warmup": 0,
        "model.train_cfg.rpn.assigner.neg_iou_thr": 0.7, "model.train_cfg.rpn.sampler.num": 100000,
        "model.train_cfg.rcnn.sampler.num": 100000, "train_cfg.max_iters": 5, "train_pipeline.5.max_regions": 4,
        "optim_wrapper.optimizer.lr": 0.002}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = write_world(tmp_path_factory.mktemp("world") / "data", ["red", "green", "blue"], ["yellow"], val=7)
    write_caches(root)
    return root


@pytest.fixture(scope="module")
def config(root):
    return root / "tests" / "tiny_vild.py"


def launch(root, script: str, *args) -> str:
    done = subprocess.run([root / "tools" / script, *map(str, args), "--device", "cpu"], capture_output=True, text=True,
                          timeout=300, check=False, env={**os.environ, "PYTHON": sys.executable})
    assert done.returncode == 0, done.stderr
    return done.stdout


def as_options(values: dict) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def largest_difference(one, other) -> float:
    """Between the trained weights in two work directories."""
    one, other = (read_checkpoint(path / "final.pth")["state_dict"] for path in (one, other))
    return max(float((one[name] - other[name]).abs().max()) for name in one if one[name].is_floating_point())


@pytest.fixture(scope="module")
def two_processes(root, world, config, tmp_path_factory):
    """The work directory of a run over two processes."""
    folder = tmp_path_factory.mktemp("two")
    printed = launch(root, "dist_train.sh", config, 2, "--data-root", world, "--work-dir", folder, "--cfg-options",
                     *as_options(EVEN), "model.roi_head.mask_head.loss_mask.loss_weight=0")
    assert printed.count("trained to iteration 5") == 1
    return folder


def test_two_processes_train_as_one_that_accumulates_two_batches(root, world, config, tmp_path):
    launch(root, "dist_train.sh", config, 2, "--data-root", world, "--work-dir", tmp_path / "two", "--cfg-options",
           *as_options(EVEN))
    train(config, data_root=world, work_dir=tmp_path / "one", device="cpu",
          options={**EVEN, "train_cfg.max_iters": 10, "optim_wrapper.accumulative_counts": 2})
    train(config, data_root=world, work_dir=tmp_path / "half", device="cpu", options=EVEN)
    assert largest_difference(tmp_path / "one", tmp_path / "two") < 1e-5
    assert largest_difference(tmp_path / "half", tmp_path / "two") > 1e-3  # without the images of the second process


def test_two_processes_train_as_one_with_the_same_global_batch(world, config, two_processes, tmp_path):
    train(config, data_root=world, work_dir=tmp_path, device="cpu",
          options={**EVEN, "train_dataloader.batch_size": 2, "model.roi_head.mask_head.loss_mask.loss_weight": 0})
    assert largest_difference(tmp_path, two_processes) < 1e-5


def test_two_processes_measure_what_one_does(root, world, config, two_processes, tmp_path):
    one = evaluate(config, two_processes / "final.pth", data_root=world, work_dir=tmp_path / "one", device="cpu",
                   diagnostics=True, out=tmp_path / "one.json", options={"test_evaluator.max_dets": 7})
    printed = launch(root, "dist_test.sh", config, two_processes / "final.pth", 2, "--data-root", world, "--work-dir",
                     tmp_path / "two", "--diagnostics", "--out", tmp_path / "two.json", "--show-dir",
                     tmp_path / "pictures", "--show-limit", 3, "--cfg-options", "test_evaluator.max_dets=7")
    assert printed.count("box AP50") == 1
    figures = {key: None if math.isnan(value) else value for key, value in one.items()}  # as json has them
    assert json.loads((tmp_path / "two" / "metrics.json").read_text()) == figures
    assert json.loads((tmp_path / "two.json").read_text()) == json.loads((tmp_path / "one.json").read_text())
    assert len(list((tmp_path / "pictures").iterdir())) == 3
    assert len({row["image_id"] for row in json.loads((tmp_path / "two.json").read_text())}) == 7


def test_a_mistake_is_reported_once_and_without_a_traceback(root, config, tmp_path):
    done = subprocess.run([root / "tools/dist_train.sh", config, "2", "--data-root", tmp_path, "--device", "cpu"],
                          capture_output=True, text=True, timeout=300, check=False,
                          env={**os.environ, "PYTHON": sys.executable})
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1 and "not found" in done.stderr and "Traceback" not in done.stderr


def test_scripts_without_arguments_say_how_they_are_used(root):
    for script in ("dist_train.sh", "dist_train_multi.sh", "dist_test.sh"):
        done = subprocess.run([root / "tools" / script], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and f"tools/{script} CONFIG" in done.stderr
    done = subprocess.run([root / "tools/dist_train.sh", "x.py", "two"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "two is not a number of processes" in done.stderr
