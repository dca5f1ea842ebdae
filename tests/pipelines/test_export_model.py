"""A trained detector as one file, from the command line to classes of boxes whose scores were calibrated."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_world import write_caches, write_detector, write_world

import ovd
from ovd.apis.model_file import ModelFile
from ovd.errors import UserError
from ovd.stores.manifest import Manifest
from pipelines.model_export import export_model

CONFIG = Path(__file__).parents[1] / "tiny_vild.py"
BASE, NOVEL = ["red box", "green box", "blue box", "yellow box"], ["red disc", "green disc"]
CLIP = {"+regions.pretrained": "shapes"}
# enough proposals that some lie on objects, though the weights are random
MANY = {"model.test_cfg.rpn.nms_pre": 2000, "model.test_cfg.rpn.max_per_img": 300, **CLIP}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = write_world(tmp_path_factory.mktemp("export") / "data", BASE, NOVEL, train=10, val=10)
    write_caches(root)
    write_detector(root, CONFIG)
    return root


@pytest.fixture(scope="module")
def exported(world) -> Path:
    """Made by the command in a process of its own."""
    out = world / "out" / "model.safetensors"
    done = subprocess.run([
        sys.executable, "-m", "pipelines.cli", "export-model", CONFIG, world / "detector.pth", "--out", out, "--shots",
        "1", "2", "--calibration-images", "6", "--annotations", world / "annotations/val.json", "--images",
        world / "val", "--data-root", world, "--device", "cpu", "--cfg-options",
        *(f"{key}={value}" for key, value in MANY.items())],
        cwd=CONFIG.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "6 classes" in done.stdout and "lessons of 4 base classes" in done.stdout
    return out


def test_the_file_says_what_it_is_and_where_it_comes_from(world, exported):
    file, manifest = ModelFile.load(exported), Manifest.read(exported)
    assert file.base_names == tuple(BASE) and file.head.names == (*BASE, *NOVEL)
    assert file.clip == {"pretrained": "shapes", "model": None, "fingerprint": "sha256:tiny"}
    assert manifest.kind == "model" and manifest.counts["classes"] == 6
    assert manifest.config["shots"] == [1, 2] and manifest.inputs.keys() == {"checkpoint", "clip"}
    matrices = [value for value in file.weights.values() if value.ndim > 1]
    assert matrices and all(torch.equal(value, value.half().float()) for value in matrices)
    text = json.dumps([file.model, file.pipeline, dict(file.notes), vars(manifest)], default=str)
    assert str(world) not in text


def test_what_base_classes_taught_is_used(world, exported):
    images = sorted((world / "val").iterdir())
    detector = ovd.load(exported, device="cpu", vocabulary=BASE)
    lessons = {(one["of"], one.get("shots"), one.get("rule")): one for one in ModelFile.load(exported).lessons}
    assert {("calibration", k, rule) for k in (1, 2) for rule in (None, "trusted", "weights", "logits", "max")} <= \
        lessons.keys()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.add_class("thing", text=False, boxes=[(images[0], (5, 5, 40, 40)), (images[1], (5, 5, 40, 40))])
        detector.add_class("green disc", boxes=[(images[0], (5, 5, 40, 40))] * 7)
    learned = lessons["calibration", 2, None]
    added = detector._vocabulary.added.select(["thing"])
    assert added.provenance[0]["calibration"] == {"gain": learned["gain"], "offset": learned["offset"]}
    assert detector.detect(images[2], threshold=0).names


def test_without_lessons_it_says_so_when_boxes_are_given(world, tmp_path):
    out = tmp_path / "plain.safetensors"
    export_model(CONFIG, world / "detector.pth", out, calibration_images=0, data_root=world, device="cpu", options=CLIP)
    detector = ovd.load(out, device="cpu")
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.warns(UserWarning, match="ovd export-model learns it"):
        detector.add_class("thing", text=False, boxes=[(image, (5, 5, 40, 40))])


def test_wrong_input_is_refused_before_work_is_spent(world, exported, tmp_path):
    def export(out, **options):
        given = {"data_root": world, "device": "cpu", "options": CLIP, "calibration_images": 0, **options}
        export_model(CONFIG, world / "detector.pth", out, **given)

    new = tmp_path / "a.safetensors"
    for said, out, options in (
            ("write a .safetensors file", tmp_path / "a.pth", {}), ("pass --overwrite", exported, {}),
            ("--shots needs numbers from 1", new, {"shots": (0, 1)}), ("names no CLIP", new, {"options": {}}),
            ("support_ann is not set", new, {"calibration_images": 5}), ("vildd", new, {"style": "vildd"}),
            ("model.dense_clip=None", new, {"options": {**CLIP, "+model.dense_clip.type": "DenseClipScore"}})):
        with pytest.raises(UserError) as error:
            export(out, **options)
        assert said in str(error.value), str(error.value)
    assert not new.exists()
