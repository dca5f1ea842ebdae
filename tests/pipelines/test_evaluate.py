"""Detections from a file: the figures of the run that wrote it, and mistakes in the file by their record."""

import json
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
from tiny_world import write_caches, write_world

from ovd.errors import UserError
from ovd.evaluation.average_precision import GroundTruth
from ovd.evaluation.saved_detections import load_detections
from pipelines.cli import run_stage
from pipelines.evaluate import evaluate_file
from pipelines.test import evaluate
from pipelines.train import train

BASE, NOVEL = ["red", "green", "blue"], ["yellow"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = write_world(tmp_path_factory.mktemp("world") / "data", BASE, NOVEL)
    write_caches(root)
    return root


@pytest.fixture(scope="module")
def tested(world, root, tmp_path_factory):
    """A test run with all its outputs: the folder, and its figures.

    The detector has hardly been trained, so the ground truth is made from what it finds, to have figures above zero.
    """
    folder, config = tmp_path_factory.mktemp("tested"), root / "tests" / "tiny_vild.py"
    settings = {"data_root": world, "work_dir": folder, "device": "cpu"}
    train(config, **settings, options={"train_cfg.max_iters": 10})
    evaluate(config, folder / "final.pth", out=folder / "found.json", **settings)
    rows, rng = json.loads((folder / "found.json").read_text()), np.random.default_rng(2)
    truth = json.loads((world / "annotations/val.json").read_text())
    truth["annotations"] = [
        {"id": number + 1, "image_id": row["image_id"], "area": 300.0, "iscrowd": 0,
         "category_id": int(rng.choice([row["category_id"], number % 4])),
         "bbox": (np.array(row["bbox"]) + rng.uniform(0, 2, 4)).tolist(),
         "segmentation": row["segmentation"]}
        for number, row in enumerate(rows[:: max(1, len(rows) // 40)])]
    (world / "annotations/val.json").write_text(json.dumps(truth))
    figures = evaluate(config, folder / "final.pth", out=folder / "found.json", **settings)
    again = evaluate(config, folder / "final.pth", out=folder / "found.pkl", **settings)
    assert repr(again) == repr(figures)
    return folder, figures


def truth_and_split(world) -> list[str]:
    return ["--ann", str(world / "annotations/val.json"), "--split", str(world / "annotations/split.json")]


@pytest.mark.parametrize("name", ["found.json", "found.pkl"])
def test_a_saved_file_has_the_figures_of_the_run_that_wrote_it(world, root, tested, tmp_path, name):
    folder, figures = tested
    command = [sys.executable, "tools/evaluate.py", folder / name, *truth_and_split(world), "--work-dir", tmp_path]
    done = subprocess.run(list(map(str, command)), cwd=root, capture_output=True, text=True, check=False,
                          env={"PYTHONPATH": str(root), "PATH": ""})
    assert done.returncode == 0 and "box AP50" in done.stdout and "mask AP" in done.stdout, done.stderr
    expected = {key: None if math.isnan(value) else value for key, value in figures.items()}
    assert json.loads((tmp_path / "metrics.json").read_text()) == expected  # all digits
    assert 0 < figures["all/ap50"] < 100 and any(0 < v < 100 for k, v in figures.items() if k.endswith("mask_ap50"))


def test_the_order_of_records_between_images_does_not_matter(world, tested, tmp_path):
    folder, figures = tested
    rows = json.loads((folder / "found.json").read_text())
    rng = np.random.default_rng(0)
    for number in range(3):
        images = rng.permutation(sorted({row["image_id"] for row in rows})).tolist()
        (tmp_path / "found.json").write_text(json.dumps([r for i in images for r in rows if r["image_id"] == i]))
        found = evaluate_file(tmp_path / "found.json", world / "annotations/val.json",
                              str(world / "annotations/split.json"), kinds=["segm", "bbox"][number % 2:])
        assert found == {key: pytest.approx(figures[key], abs=0, nan_ok=True) for key in found}
        assert "base/mask_ap" in found or number % 2


def test_boxes_without_masks_are_evaluated_alone(world, tested, tmp_path, capsys):
    rows = [{k: v for k, v in row.items() if k != "segmentation"}
            for row in json.loads((tested[0] / "found.json").read_text())]
    (tmp_path / "boxes.json").write_text(json.dumps(rows))
    assert run_stage("evaluate", [str(tmp_path / "boxes.json"), *truth_and_split(world)]) == 0
    out = capsys.readouterr().out
    assert "box AP50" in out and "mask AP" not in out
    assert run_stage("evaluate", [str(tmp_path / "boxes.json"), *truth_and_split(world), "--eval", "segm"]) == 2
    assert "record 0 has no segmentation, which --eval segm needs" in capsys.readouterr().err


def test_nothing_found_is_zero(world, tmp_path):
    (tmp_path / "found.json").write_text("[]")
    figures = evaluate_file(tmp_path / "found.json", world / "annotations/val.json",
                            str(world / "annotations/split.json"))
    assert figures["all/ap"] == figures["novel/ap50"] == 0


def test_categories_of_the_file_that_are_not_evaluated_are_left_out(world, tmp_path):
    truth = GroundTruth(world / "annotations/val.json", BASE)
    row = {"image_id": 101, "bbox": [0.1, 0.2, 0.3, 0.4], "score": 0.5}
    (tmp_path / "found.json").write_text(json.dumps([{**row, "category_id": i} for i in (3, 1, 0)]))
    found, images = load_detections(tmp_path / "found.json", truth)
    assert found.labels.tolist() == [1, 0] and images is None
    assert found.sizes.tolist() == [[0.3, 0.4]] * 2  # as the file has them: 0.1 + 0.3 - 0.1 is not 0.3


GOOD = {"image_id": 101, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5,
        "segmentation": {"size": [64, 64], "counts": "0"}}
MISTAKES = {
    "no score": ({"score": None}, "record 1 has no 'score'"),
    "no box": ({"bbox": None}, "record 1 has no 'bbox'"),
    "no image": ({"image_id": None}, "record 1 has no 'image_id'"),
    "no category": ({"category_id": None}, "record 1 has no 'category_id'"),
    "box of three": ({"bbox": [1, 2, 3]}, "record 1.bbox: expected array of length 4"),
    "text": ({"score": "high"}, "record 1.score: expected float, got str"),
    "unknown image": ({"image_id": 5}, "a detection in image 5, which"),
    "unknown category": ({"category_id": 77}, "record 1 has the category id 77, which"),
    "NaN score": ({"score": math.nan}, "record 1 has a NaN or infinite number in score"),
    "NaN box": ({"bbox": [1, 2, math.inf, 4]}, "record 1 has a NaN or infinite number in bbox"),
    "no mask": ({"segmentation": None}, "record 1 has no segmentation"),
    "other size": ({"segmentation": {"size": [9, 9], "counts": "0"}}, "record 1: its mask has the size [9, 9]"),
    "no counts": ({"segmentation": {"size": [64, 64]}}, "record 1: its segmentation is neither"),
    "runs below zero": ({"segmentation": {"size": [64, 64], "counts": [-1, 4097]}}, "record 1: the counts of its mask"),
    "runs of text": ({"segmentation": {"size": [64, 64], "counts": ["a"]}}, "record 1: the counts of its mask"),
    "too long runs": ({"segmentation": {"size": [64, 64], "counts": [0, 9000]}}, "no run lengths of 4096 pixels"),
    "huge id": ({"image_id": 10**30}, "does not fit into 64 bits"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_with_file_and_record(world, tmp_path, capsys, name):
    change, words = MISTAKES[name]
    row = {key: value for key, value in (GOOD | change).items() if value is not None}
    path = tmp_path / "found.json"
    path.write_text(json.dumps([GOOD, row]))
    assert run_stage("evaluate", [str(path), *truth_and_split(world)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and str(path) in error and words in error


@pytest.mark.parametrize(("content", "words"), [
    ("", "is empty"), (" \n", "is empty"), ("{}", "no list of detections"), ("[{", "is cut or no json"),
    ('[{"image_id": 1', "is cut"), ("[1]", "record 0: expected object, got int")])  # fmt: skip
def test_what_is_no_file_of_detections_is_a_users_mistake(world, tmp_path, capsys, content, words):
    (tmp_path / "found.json").write_text(content)
    assert run_stage("evaluate", [str(tmp_path / "found.json"), *truth_and_split(world)]) == 2
    error = capsys.readouterr().err
    assert words in error and "found.json" in error and error.count("\n") == 1


@pytest.mark.parametrize(("change", "words"), [
    ({"img_id": 5}, "image 5"), ({"img_id": "a"}, "record 0 is no image"), ({"scores": None}, "has no 'scores'"),
    ({"labels": np.array([9])}, "the label 9"), ({"scores": np.array([0.5, 0.5])}, "differ in length"),
    ({"scores": np.array([math.nan])}, "NaN or infinite"), ({"bboxes": np.zeros((1, 3))}, "differ in length"),
    ({"scores": np.array(0.5)}, "differ in length"), ({"scores": np.array([[0.5]])}, "differ in length"),
    ({"labels": np.array([0.5])}, "labels are float64"), ({"masks": []}, "masks are not a list with one for each of 1"),
    ({"masks": [5]}, "neither polygons nor"),
    ({"masks": [{"size": [5, 5], "counts": b"0"}]}, r"size \[5, 5\], image 101"),
    ({"img_id": 7, "bboxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0)}, "has the image 7, which"),
])  # fmt: skip
def test_mistakes_in_a_pickle(world, tmp_path, change, words):
    image = {"img_id": 101, "bboxes": np.zeros((1, 4)), "scores": np.array([0.5]), "labels": np.array([1])} | change
    (tmp_path / "found.pkl").write_bytes(pickle.dumps([image]))
    truth = GroundTruth(world / "annotations/val.json", BASE + NOVEL)
    with pytest.raises(UserError, match=words) as error:
        load_detections(tmp_path / "found.pkl", truth)
    assert "found.pkl" in str(error.value)


def test_a_pickle_without_images_is_refused(world, tmp_path):
    (tmp_path / "found.pkl").write_bytes(pickle.dumps([]))
    with pytest.raises(UserError, match="has no images"):
        load_detections(tmp_path / "found.pkl", GroundTruth(world / "annotations/val.json", BASE))


def test_a_pickle_that_would_run_code_is_refused(world, tmp_path):
    (tmp_path / "found.pkl").write_bytes(pickle.dumps([print]))
    with pytest.raises(UserError, match=r"found\.pkl"):
        load_detections(tmp_path / "found.pkl", GroundTruth(world / "annotations/val.json", BASE))


@pytest.mark.parametrize(("arguments", "words"), [
    (["none.json"], "no such file of detections"), (["found.txt"], "detections are a .json"),
    (["found.json", "--eval", "mask"], "mask is not one of bbox, segm"),
    (["found.json", "--max-dets", "0"], "positive"),
])
def test_wrong_arguments(world, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    for name in ("found.txt", "found.json"):
        (tmp_path / name).write_text("[]")
    assert run_stage("evaluate", [*arguments, *truth_and_split(world)]) == 2
    assert words in capsys.readouterr().err
