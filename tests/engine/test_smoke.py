"""Smoke tests: off by default, loud, small, and never taken for a run."""

import argparse
import json
import subprocess
import sys

import pytest
from mmengine.config import Config
from tiny_world import write_caches, write_world

from ovd.engine.smoke import IMAGES, ITERATIONS, announced, smoke_training, smoked
from ovd.errors import UserError
from ovd.stores.manifest import Manifest
from pipelines import test, train


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = write_world(tmp_path_factory.mktemp("world") / "data", ["red", "green", "blue"], ["yellow"])
    write_caches(root)
    return root


@pytest.fixture(scope="module")
def config(root):
    return root / "tests" / "tiny_vild.py"


@pytest.fixture(scope="module")
def smoke_run(root, world, config, tmp_path_factory):
    """A smoke test of training and one of testing, on the command line: the work directory, and what each said."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    said = []
    for command in (["train", config], ["test", config, f"{folder}_smoke/final.pth"]):
        found = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *map(str, command), "--smoke", "--data-root", str(world),
             "--work-dir", str(folder), "--device", "cpu"], cwd=root, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        said.append(found.stdout)
    return folder.with_name("run_smoke"), said


@pytest.mark.parametrize("stage", [train, test])
def test_it_is_off_by_default(stage):
    parser = argparse.ArgumentParser()
    stage.add_arguments(parser)
    assert parser.parse_args(["config.py", "x.pth"][:1 + (stage is test)]).smoke is False
    assert stage.__dict__["train" if stage is train else "evaluate"].__kwdefaults__["smoke"] is False


def test_it_is_said_before_and_after(smoke_run):
    for said in smoke_run[1]:
        lines = said.splitlines()
        assert lines[0] == lines[2] == "#" * len(lines[1]) and lines[-1] == lines[-3] == "#" * len(lines[-2])
        assert lines[1].startswith("### SMOKE TEST of ovd") and all("mean nothing" in lines[i] for i in (1, -2))


def test_what_it_writes_has_the_mark_and_no_scores(smoke_run):
    folder, (_, tested) = smoke_run
    manifest = Manifest.read(folder / "final.pth")
    assert manifest.flags["smoke"] is True and manifest.config["smoke"] is True
    assert manifest.counts["iterations"] == ITERATIONS
    assert json.loads((folder / "metrics.json").read_text()) == {"smoke": True}
    assert [json.loads(line)["smoke"] for line in (folder / "results.jsonl").read_text().splitlines()] == [True]
    assert "AP" not in tested and f"{IMAGES} images in" in tested
    assert not folder.with_name("run").exists()


def test_a_run_does_not_take_it_for_up_to_date(smoke_run, config, world):
    with pytest.raises(UserError, match=r"final.pth: exists but .*smoke.*--overwrite"):
        train.train(config, data_root=world, work_dir=smoke_run[0], device="cpu",
                    options={"train_cfg.max_iters": ITERATIONS})


def test_what_is_made_from_it_has_the_mark_too(smoke_run, config, world, tmp_path, capsys):
    checkpoint = smoke_run[0] / "final.pth"
    assert smoked([checkpoint]) == [checkpoint]
    test.evaluate(config, checkpoint, data_root=world, work_dir=tmp_path, device="cpu")
    assert json.loads((tmp_path / "metrics.json").read_text())["smoke"] is True
    said = capsys.readouterr().out
    assert f"WARNING: {checkpoint}: from a smoke test" in said and "### SMOKE" not in said


def test_its_detections_are_not_written(smoke_run, config, world, tmp_path):
    with pytest.raises(UserError, match="--smoke: its detections mean nothing"):
        test.evaluate(config, smoke_run[0] / "final.pth", data_root=world, work_dir=tmp_path / "work", device="cpu",
                      smoke=True, out=tmp_path / "found.json")


def test_a_schedule_of_epochs_becomes_one_of_a_few_images():
    images = {"type": "OpenVocabDataset", "ann_file": "train.json"}
    cfg = Config({
        "work_dir": "work_dirs/x", "train_cfg": {"max_epochs": 12}, "val_dataloader": {}, "val_cfg": {},
        "custom_hooks": [{"type": "PreciseBNHook", "batches": 200}, {"type": "Other"}],
        "train_dataloader": {"batch_size": 16, "num_workers": 4, "prefetch_factor": 2,
                             "dataset": {"type": "ClassBalancedDataset", "dataset": images}}})
    smoke_training(cfg)
    loader = cfg.train_dataloader
    assert cfg.train_cfg.max_epochs == 1 and loader.dataset.dataset.indices == IMAGES
    assert (loader.batch_size, loader.num_workers) == (2, 0) and "prefetch_factor" not in loader
    assert cfg.work_dir == "work_dirs/x_smoke" and cfg.smoke is True and cfg.val_cfg is None
    assert [hook.get("batches") for hook in cfg.custom_hooks] == [1, None]


def test_nothing_is_announced_of_a_run(capsys):
    with announced("ovd train", smoke=False):
        pass
    assert capsys.readouterr().out == ""
