"""Training and testing from end to end, on pictures of 64 pixels and a detector of a few thousand weights."""

import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from tiny_world import write_caches, write_world

from ovd.engine.checkpoints import read_checkpoint
from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead
from ovd.stores.manifest import Manifest
from pipelines.cli import run_stage
from pipelines.test import evaluate
from pipelines.train import train

BASE, NOVEL = ["red", "green", "blue"], ["yellow", "violet"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = write_world(tmp_path_factory.mktemp("world") / "data", BASE, NOVEL)
    write_caches(root)
    return root


@pytest.fixture(scope="module")
def config(root):
    return root / "tests" / "tiny_vild.py"


@pytest.fixture(scope="module")
def trained(config, world, tmp_path_factory):
    """The work directory of a run of ten iterations."""
    folder = tmp_path_factory.mktemp("trained")
    train(config, data_root=world, work_dir=folder, device="cpu")
    return folder


def weights(path) -> dict[str, torch.Tensor]:
    return read_checkpoint(path)["state_dict"]


def assert_same_weights(one, other, **tolerance) -> None:
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], **(tolerance or {"rtol": 0, "atol": 0}), msg=name)


def test_training_writes_weights_with_their_origin(trained, world):
    manifest = Manifest.read(trained / "final.pth")
    assert (manifest.kind, manifest.stage) == ("checkpoint", "train")
    assert set(manifest.inputs) == {"ann_file", "region_store", "class_head"}
    assert manifest.config["randomness"]["seed"] == 3407
    assert manifest.counts["iterations"] == 10 and manifest.counts["images"] == 8
    assert (trained / "tiny_vild.py").exists()
    contents = read_checkpoint(trained / "final.pth")
    assert contents["meta"]["seed"] == 3407 and contents["meta"]["classes"] == BASE + NOVEL
    assert int(contents["state_dict"]["roi_head.distillation.iterations"]) == 10


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(trained, config, world, tmp_path):
    train(config, data_root=world, work_dir=tmp_path / "same", device="cpu")
    assert (tmp_path / "same" / "final.pth").read_bytes() == (trained / "final.pth").read_bytes()
    train(config, data_root=world, work_dir=tmp_path / "other", device="cpu", seed=1,
          options={"train_cfg.max_iters": 2})
    ours, theirs = weights(trained / "final.pth"), weights(tmp_path / "other" / "final.pth")
    assert not torch.equal(ours["rpn_head.rpn_conv.weight"], theirs["rpn_head.rpn_conv.weight"])


def interrupt_after(folder, iteration: int) -> None:
    """Leave what a run killed after ``iteration`` leaves."""
    for path in folder.glob("final.pth*"):
        path.unlink()
    for path in folder.glob("iter_*.pth"):
        if int(path.stem.split("_")[1]) > iteration:
            path.unlink()
    (folder / "iter_99.pth.part").write_bytes(b"half a checkpoint")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_equals_one_that_was_never_interrupted(trained, config, world, tmp_path, workers, capsys):
    shutil.copytree(trained, tmp_path / "run")
    interrupt_after(tmp_path / "run", 8)
    options = {"train_dataloader.num_workers": workers}
    with pytest.raises(UserError, match=r"interrupted \(iter_8.pth\); pass --resume to go on"):
        train(config, data_root=world, work_dir=tmp_path / "run", device="cpu", options=options)
    train(config, data_root=world, work_dir=tmp_path / "run", device="cpu", resume="auto", options=options)
    assert (tmp_path / "run" / "final.pth").read_bytes() == (trained / "final.pth").read_bytes()
    ours, theirs = read_checkpoint(tmp_path / "run" / "iter_10.pth"), read_checkpoint(trained / "iter_10.pth")
    for one, other in zip(ours["optimizer"]["state"].values(), theirs["optimizer"]["state"].values()):
        assert torch.equal(one["momentum_buffer"], other["momentum_buffer"])
    assert ours["param_schedulers"] == theirs["param_schedulers"]


def test_a_killed_run_goes_on_to_the_same_bytes(root, trained, config, world, tmp_path):
    run = subprocess.Popen([sys.executable, "tools/train.py", config, "--data-root", world, "--work-dir", tmp_path,
                            "--device", "cpu"], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while run.poll() is None and not (tmp_path / "iter_4.pth").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    run.kill()
    run.wait()
    assert (tmp_path / "iter_4.pth").exists()
    train(config, data_root=world, work_dir=tmp_path, device="cpu", resume="auto")
    assert (tmp_path / "final.pth").read_bytes() == (trained / "final.pth").read_bytes()


def test_epochs_and_grouped_batches_resume_exactly_too(config, world, tmp_path, capsys):
    text = """
from mmengine.config import read_base
with read_base():
    from .tiny_vild import *
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=2, val_interval=1)
val_cfg, val_dataloader, val_evaluator = dict(type="ValLoop"), test_dataloader, test_evaluator
train_dataloader.update(batch_sampler=dict(type="AspectRatioBatchSampler"), batch_size=3,
                        sampler=dict(type=DefaultSampler, shuffle=True))
default_hooks["checkpoint"].update(interval=1)
"""
    shutil.copytree(config.parent.parent / "configs" / "_base_", tmp_path / "configs" / "_base_")
    (tmp_path / "tests").mkdir()
    shutil.copy(config, tmp_path / "tests")
    (tmp_path / "tests" / "epochs.py").write_text(text)
    run = {"config": tmp_path / "tests" / "epochs.py", "data_root": world, "device": "cpu"}
    train(**run, work_dir=tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    (tmp_path / "parts" / "epoch_2.pth").unlink()
    (tmp_path / "parts" / "final.pth").unlink()
    capsys.readouterr()
    train(**run, work_dir=tmp_path / "parts", resume="auto")
    assert "iteration 6: base/ap50 " in capsys.readouterr().out
    assert_same_weights(tmp_path / "whole" / "final.pth", tmp_path / "parts" / "final.pth")


def test_a_finished_run_is_not_repeated(trained, config, world, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    before = (tmp_path / "run" / "final.pth").stat().st_mtime_ns
    train(config, data_root=world, work_dir=tmp_path / "run", device="cpu", resume="auto")
    assert "final.pth is up to date" in capsys.readouterr().out
    assert (tmp_path / "run" / "final.pth").stat().st_mtime_ns == before


def test_a_run_of_other_settings_or_inputs_is_not_overwritten_or_mixed(trained, config, world, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    shutil.copytree(world, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "regions")
    (tmp_path / "data" / "head.safetensors").unlink()
    write_caches(tmp_path / "data", seed=5)
    with pytest.raises(UserError, match=r"learning|lr was 0.01, now 0.5.*--overwrite"):
        train(config, data_root=world, work_dir=tmp_path / "run", device="cpu",
              options={"optim_wrapper.optimizer.lr": 0.5})
    with pytest.raises(UserError, match=r"another '(class_head|region_store)'.*--overwrite"):
        train(config, data_root=tmp_path / "data", work_dir=tmp_path / "run", device="cpu")
    interrupt_after(tmp_path / "run", 8)
    with pytest.raises(UserError, match=r"interrupted run was made from another.*--overwrite to start over"):
        train(config, data_root=tmp_path / "data", work_dir=tmp_path / "run", device="cpu", resume="auto")
    train(config, data_root=tmp_path / "data", work_dir=tmp_path / "run", device="cpu", overwrite=True,
          options={"train_cfg.max_iters": 1})
    assert not (tmp_path / "run" / "iter_8.pth").exists()
    assert Manifest.read(tmp_path / "run" / "final.pth").counts["iterations"] == 1


def test_a_damaged_checkpoint_is_not_gone_on_with(trained, config, world, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    interrupt_after(tmp_path / "run", 8)
    path = tmp_path / "run" / "iter_8.pth"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"iter_8\.pth"):
        train(config, data_root=world, work_dir=tmp_path / "run", device="cpu", resume="auto")


def test_a_start_from_other_weights_says_how_many_fit(trained, config, world, tmp_path, capsys):
    final = trained / "final.pth"
    train(config, data_root=world, work_dir=tmp_path, device="cpu", options={
        "load_from": str(final), "train_cfg.max_iters": 1, "model.roi_head.bbox_head.fc_out_channels": 10})
    old, new = weights(final), weights(tmp_path / "final.pth")
    fitting = sum(name in old and old[name].shape == value.shape for name, value in new.items())
    assert 0 < fitting < len(new)
    printed = capsys.readouterr().out
    assert f"load_from: {fitting} of the model's {len(new)} tensors are from {final}" in printed
    assert f"{len(new) - fitting} of its own have another shape" in printed


def test_training_stops_on_a_loss_that_is_not_finite(config, world, tmp_path):
    with pytest.raises(UserError, match=r"the loss is (nan|inf) in iteration \d+.*train/000\d+\.png"):
        train(config, data_root=world, work_dir=tmp_path, device="cpu",
              options={"optim_wrapper.optimizer.lr": 1e30, "optim_wrapper.clip_grad": None, "param_scheduler": []})
    assert not (tmp_path / "final.pth").exists()


def test_evaluation_writes_figures_detections_and_pictures(trained, config, world, tmp_path, capsys):
    figures = evaluate(config, trained / "final.pth", data_root=world, work_dir=tmp_path, device="cpu",
                       diagnostics=True, out=tmp_path / "found.json", show_dir=tmp_path / "pictures", show_limit=4,
                       show_score=0.0)
    printed = capsys.readouterr().out
    assert "box AP50" in printed and "1-label AP50" in printed and "metrics.json" in printed
    saved = json.loads((tmp_path / "metrics.json").read_text())
    assert saved == {name: None if np.isnan(value) else value for name, value in figures.items()}
    assert {"base/ap50", "novel/mask_ap50", "all/top1_ap50", "novel/accuracy"} <= set(saved)
    assert len(list((tmp_path / "pictures").glob("*.jpg"))) == 4
    rows = json.loads((tmp_path / "found.json").read_text())
    assert {row["category_id"] for row in rows} <= set(range(5))
    assert set(rows[0]) == {"image_id", "category_id", "bbox", "score", "segmentation"}


def test_evaluation_of_boxes_only(trained, config, world, tmp_path):
    figures = evaluate(config, trained / "final.pth", data_root=world, work_dir=tmp_path, device="cpu", kinds=["bbox"])
    assert not any("mask" in name for name in figures)


def test_the_vocabulary_may_be_replaced(trained, config, world, tmp_path):
    head = ClassHead.load(world / "head.safetensors")
    swapped = np.asarray(head.weights)[[1, 0, 2, 3, 4]]
    ClassHead(names=head.names, weights=swapped, stats=dict(head.stats)).save(tmp_path / "swapped.safetensors")
    runs = []
    for number, class_head in enumerate((None, tmp_path / "swapped.safetensors")):
        out = tmp_path / f"{number}.json"
        evaluate(config, trained / "final.pth", data_root=world, work_dir=tmp_path, device="cpu", out=out,
                 class_head=class_head)
        runs.append(json.loads(out.read_text()))
    exchanged = [{**row, "category_id": {0: 1, 1: 0}.get(row["category_id"], row["category_id"])} for row in runs[1]]

    def key(row):
        return (row["image_id"], row["category_id"], row["score"], row["bbox"])

    for one, other in zip(sorted(runs[0], key=key), sorted(exchanged, key=key), strict=True):
        assert one["category_id"] == other["category_id"] and one["bbox"] == other["bbox"]
        assert one["score"] == pytest.approx(other["score"], rel=1e-5)


@pytest.fixture(scope="module")
def mistakes(trained, config, world, tmp_path_factory):
    """Name -> (arguments of a stage, what the message must say)."""
    folder = tmp_path_factory.mktemp("mistakes")
    final = trained / "final.pth"
    other = write_world(folder / "other", BASE, NOVEL, train=1, val=1)
    write_caches(other, width=16)
    ClassHead.load(world / "head.safetensors").select(BASE).save(other / "few.safetensors")
    (folder / "cut.pth").write_bytes(final.read_bytes()[:3000])
    return {
        "unknown key": (("train", config, "--cfg-options", "train_cfg.max_iter=3"), "did you mean max_iters"),
        "no data": (("train", config, "--data-root", folder / "nowhere"), "not found"),
        "no config": (("train", folder / "none.py"), "no such config"),
        "no checkpoint": (("test", config, folder / "absent.pth"), "no such checkpoint"),
        "cut checkpoint": (("test", config, folder / "cut.pth"), "not a readable checkpoint"),
        "unknown metric": (("test", config, final, "--eval", "boxes"), "boxes is not one of bbox, segm"),
        "no class head": (("test", config, final, "--class-head", folder / "none.safetensors"), "not found"),
        "other class head": (("test", config, final, "--class-head", other / "head.safetensors"), "has width 16"),
        "other classes": (("test", config, final, "--class-head", other / "few.safetensors"), "lacks 2 of the 5"),
        "other style": (("test", config, final, "--cfg-options", "+model.backbone.style=caffe"),
                        "style is pytorch, the config's caffe"),
        "mixed precision": (("train", config, "--amp"), "needs a GPU"),
        "unknown format": (("test", config, final, "--out", "x.txt"), ".json or a .pkl"),
    }


@pytest.mark.parametrize("mistake", ["unknown key", "no data", "no config", "no checkpoint", "cut checkpoint",
                                     "unknown metric", "no class head", "other class head", "other classes",
                                     "other style", "mixed precision", "unknown format"])
def test_a_mistake_is_one_line_and_status_2(mistakes, world, tmp_path, mistake, capfd):
    args, message = mistakes[mistake]
    extra = () if "--data-root" in args else ("--data-root", world)
    status = run_stage(args[0], [str(a) for a in (*args[1:], *extra, "--work-dir", tmp_path, "--device", "cpu")])
    printed = capfd.readouterr()
    lines = printed.err.strip().splitlines()
    assert status == 2 and printed.out == ""
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert not list(tmp_path.iterdir())  # nothing was begun


def test_the_scripts_say_so_too(root, mistakes, world):
    for mistake in ("unknown key", "no checkpoint"):
        (stage, *args), message = mistakes[mistake]
        done = subprocess.run([sys.executable, f"tools/{stage}.py", *map(str, args), "--data-root", world], cwd=root,
                              capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1
