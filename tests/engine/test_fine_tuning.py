"""SparK's fine-tuning from end to end: a Mask R-CNN with learned classes is trained, evaluated, resumed, tested."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from tiny_world import write_world

from ovd.engine.checkpoints import read_checkpoint
from ovd.errors import UserError
from pipelines.test import evaluate
from pipelines.train import train

BASE, NOVEL = ["red", "green", "blue", "yellow"], ["violet"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world") / "data", BASE, NOVEL)


@pytest.fixture(scope="module")
def config(root):
    return root / "tests" / "tiny_mask_rcnn.py"


@pytest.fixture(scope="module")
def trained(config, world, tmp_path_factory):
    """The work directory of a run of ten iterations, evaluated after 4, 8 and the last."""
    folder = tmp_path_factory.mktemp("trained")
    train(config, data_root=world, work_dir=folder, device="cpu")
    return folder


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_training_evaluates_and_leaves_a_line_each_time(trained):
    found = lines(trained)
    assert [(line["kind"], line["iteration"]) for line in found] == [("val", 4), ("val", 8), ("val", 10)]
    for line in found:
        assert line["config"] == "tiny_mask_rcnn"
        assert {"boxAP", "bAP75", "mskAP", "mAP-s", "base", "novel", "easy", "hard"} <= set(line)
        assert set(line["easy"]) == set(line["hard"]) == {*BASE, *NOVEL}
        assert line["bAP-l"] is None  # no object is that large
    assert found[-1]["remaining"] == 0


def test_the_rates_of_the_layers_are_in_the_log_and_in_the_checkpoint(trained):
    log = next(trained.glob("*/*.log")).read_text()
    assert "AdamW, layer decay 0.6 of ResNet" in log and "backbone.layer3.1.conv2.weight" in log
    # 20 in the backbone, 8 in the FPN, 4 in each head
    assert "statistics of 36 batch-normalisation layers recomputed over 3 batches" in log
    groups = read_checkpoint(trained / "iter_10.pth")["optimizer"]["param_groups"]
    rates = sorted({group["initial_lr"] for group in groups})
    assert rates == pytest.approx([1e-3 * 0.6**power for power in (6, 5, 4, 3, 1, 0)])  # an R-18 has no layer 4
    assert {group["weight_decay"] for group in groups} == {0.0, 1e-4}
    assert all(group["lr"] == pytest.approx(group["initial_lr"] * 0.25**2) for group in groups)


def test_a_resumed_run_with_evaluations_equals_one_that_was_never_interrupted(trained, config, world, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    for name in ("final.pth", "final.pth.manifest.json", "iter_10.pth"):
        (tmp_path / "run" / name).unlink()
    train(config, data_root=world, work_dir=tmp_path / "run", device="cpu", resume="auto")
    assert (tmp_path / "run" / "final.pth").read_bytes() == (trained / "final.pth").read_bytes()
    again = lines(tmp_path / "run")[-1]
    whole = lines(trained)[-1]
    assert again["iteration"] == 10
    for name in ("boxAP", "mskAP", "easy", "hard", "base"):
        assert again[name] == whole[name]


def test_the_command_line_tests_it(root, trained, config, world, tmp_path):
    done = subprocess.run(
        [sys.executable, "tools/test.py", config, trained / "final.pth", "--eval", "bbox", "segm", "--data-root", world,
         "--work-dir", tmp_path, "--device", "cpu"], cwd=root, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "mask AP50" in done.stdout
    (line,) = lines(tmp_path)
    assert (line["kind"], line["iteration"], line["remaining"]) == ("test", 10, None)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    last = lines(trained)[-1]
    for key, name in (("boxAP", "all/ap"), ("mAP75", "all/mask_ap75")):
        assert line[key] == last[key] == pytest.approx(metrics[name], abs=1e-3)


def test_a_detector_without_masks(config, world, tmp_path):
    options = {"model.roi_head.mask_head": None, "model.roi_head.mask_roi_extractor": None,
               "test_evaluator.metric": "bbox", "val_evaluator.metric": "bbox", "train_cfg.max_iters": 2}
    train(config, data_root=world, work_dir=tmp_path, device="cpu", options=options)
    evaluate(config, tmp_path / "final.pth", data_root=world, work_dir=tmp_path, device="cpu", options=options)
    assert [line["kind"] for line in lines(tmp_path)] == ["val", "test"]
    for line in lines(tmp_path):
        assert "boxAP" in line and not any(key.startswith(("mAP", "msk")) for key in line)


def test_views_of_each_image_are_merged(trained, config, world, tmp_path):
    run = {"data_root": world, "work_dir": tmp_path, "device": "cpu"}
    for name, views in (("plain", None), ("mirrored", []), ("sizes", [1.0, 1.5])):
        evaluate(config, trained / "final.pth", **run, tta=views, out=tmp_path / f"{name}.json")
    plain, mirrored, sizes = (json.loads((tmp_path / f"{name}.json").read_text())
                              for name in ("plain", "mirrored", "sizes"))
    assert plain != mirrored != sizes
    for rows in (mirrored, sizes):
        assert set(rows[0]) == {"image_id", "category_id", "bbox", "score", "segmentation"}
        assert {row["image_id"] for row in rows} == {row["image_id"] for row in plain}
        for image in {row["image_id"] for row in rows}:
            assert len([row for row in rows if row["image_id"] == image]) <= 20
    with pytest.raises(UserError, match="leave one of them out"):
        evaluate(config, trained / "final.pth", **run, tta=[], diagnostics=True)
    with pytest.raises(UserError, match="factors"):
        evaluate(config, trained / "final.pth", **run, tta=[-1.0])


def test_the_final_weights_have_precise_statistics(trained):
    """The moving averages of ten iterations would still be close to 0 and 1."""
    weights = read_checkpoint(trained / "final.pth")["state_dict"]
    tracked = weights["backbone.bn1.num_batches_tracked"]
    assert int(tracked) == 10
    previous = read_checkpoint(trained / "iter_8.pth")["state_dict"]
    assert not torch.equal(weights["backbone.bn1.running_var"], previous["backbone.bn1.running_var"])
