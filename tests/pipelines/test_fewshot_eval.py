"""Classes added to a trained detector: evaluated over shots and seeds in one pass, and kept in a registry."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_world import write_caches, write_detector, write_world

from ovd.engine.config import load_config, resolve_types
from ovd.errors import UserError
from ovd.fewshot.detection.base_rows import base_regions
from ovd.fewshot.detection.detector import ShotDetector
from ovd.fewshot.detection.maker import beside
from ovd.fewshot.shots import ShotSet
from ovd.stores.class_heads import ClassHead
from ovd.stores.class_registry import ClassRegistry
from pipelines.class_codes import class_codes
from pipelines.classes.origins import Origin
from pipelines.fewshot_eval import Plan, fewshot_eval
from pipelines.test import evaluate

CONFIG = Path(__file__).parents[1] / "tiny_hyper.py"
BASE, NOVEL = ["red box", "green box", "blue box", "yellow box"], ["red disc", "green disc"]
METHODS = ("text", "prototype", "codes", "text+prototype:weights", "text+codes:max")
# enough proposals that some boxes of a detector of random weights are right by chance
MANY = {"model.test_cfg.rpn.nms_pre": 2000, "model.test_cfg.rpn.max_per_img": 300,
        "model.test_cfg.rcnn.max_per_img": 100}
PLAN = Plan(METHODS, (1, 3), (0, 1), calibration_images=6)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Small pictures, classes, and a detector whose weights are random but whose scores are not all alike."""
    root = write_world(tmp_path_factory.mktemp("added") / "data", BASE, NOVEL, train=10, val=10)
    write_caches(root)
    shutil.copytree(root / "val", root / "support")
    write_detector(root, CONFIG)
    return root


def added(world: Path, out: Path, plan: Plan = PLAN, **options):
    options = {"annotations": world / "annotations" / "val.json", "images": world / "support", **options}
    return fewshot_eval(CONFIG, world / "detector.pth", plan, out=out, data_root=world, device="cpu", options=MANY,
                        **options)


@pytest.fixture(scope="module")
def evaluated(world, tmp_path_factory) -> Path:
    """The results of a whole evaluation, made by the command in a process of its own."""
    out = tmp_path_factory.mktemp("evaluated")
    subprocess.run([sys.executable, "-m", "pipelines.cli", "fewshot-eval", CONFIG, world / "detector.pth", "--methods",
                    *METHODS, "--shots", "1", "3", "--seeds", "0", "1", "--annotations", world / "annotations/val.json",
                    "--images", world / "support", "--calibration-images", "6", "--data-root", world, "--out", out,
                    "--save-heads", "--device", "cpu", "--cfg-options",
                    *(f"{key}={value}" for key, value in MANY.items())],
                   check=True, cwd=CONFIG.parents[1], capture_output=True)
    return out


def test_every_method_has_a_row_for_each_number_of_shots(evaluated):
    contents = json.loads((evaluated / "fewshot.json").read_text())
    found = {(row["name"], row["shots"]): row for row in contents["rows"]}
    assert set(found) == {("text", 0), *((name, k) for name in METHODS[1:] for k in (1, 3))}
    assert all(row["seeds"] == ([0] if name == "text" else [0, 1]) for (name, _), row in found.items())
    assert (evaluated / "fewshot.png").read_bytes()[:4] == b"\x89PNG"
    assert contents["smoke"] is False
    lessons = {(one["of"], one["source"], one.get("shots"), one.get("rule")) for one in contents["base_lessons"]}
    assert {("calibration", "codes", 3, None), ("kappa", "prototype", None, "weights")} <= lessons


def test_base_classes_keep_their_ap_whatever_is_added(evaluated):
    rows = json.loads((evaluated / "fewshot.json").read_text())["rows"]
    values = {value for row in rows for value in row["figures"]["base/ap50"]["values"]}
    assert len(values) == 1 and values.pop() > 0


def test_one_pass_gives_what_a_test_of_each_head_gives(world, evaluated, tmp_path):
    rows = {(row["name"], row["shots"]): row for row in json.loads((evaluated / "fewshot.json").read_text())["rows"]}
    for name, shots, seed, file in (("text", 0, 0, "text_0shots_seed0"), ("text+codes:max", 3, 1,
                                                                           "text+codes_max_3shots_seed1")):
        metrics = evaluate(CONFIG, world / "detector.pth", kinds=["bbox"], data_root=world, work_dir=tmp_path,
                           class_head=evaluated / "heads" / f"{file}.safetensors", device="cpu",
                           options={**MANY, "+model.test_cfg.rcnn.scores": "independent"})
        figures = rows[name, shots]["figures"]
        for key in ("base/ap50", "novel/ap50", "all/ap"):
            assert metrics[key] == pytest.approx(figures[key]["values"][min(seed, len(rows[name, shots]["seeds"]) - 1)],
                                                 abs=1e-3)


def test_a_second_run_is_up_to_date_and_its_shots_can_be_used_again(world, evaluated, tmp_path, capsys):
    before = (evaluated / "fewshot.json").stat().st_mtime_ns
    added(world, evaluated)
    assert "up to date" in capsys.readouterr().out and (evaluated / "fewshot.json").stat().st_mtime_ns == before
    files = [evaluated / "shots" / f"seed{seed}.json" for seed in (0, 1)]
    shots = ShotSet.load(files[0])
    assert shots.names == tuple(NOVEL) and shots.k == 3
    rows = added(world, tmp_path, Plan(("prototype",), (1, 3), (0, 1), calibration_images=6), shots_files=files)
    again = {row["shots"]: row for row in rows}
    for row in json.loads((evaluated / "fewshot.json").read_text())["rows"]:
        if row["name"] == "prototype":
            assert row == again[row["shots"]]


def test_a_smoke_test_has_no_scores_and_is_never_taken_for_results(world, tmp_path, capsys):
    from pipelines.fewshot_eval import smoke_plan

    assert PLAN.smoke is False
    plan = smoke_plan(PLAN)
    assert (plan.shots, plan.seeds, plan.smoke) == ((1,), (0,), True)
    assert added(world, tmp_path, plan) == []
    assert capsys.readouterr().out.count("Its numbers mean nothing") == 2
    contents = json.loads((tmp_path / "smoke.json").read_text())
    assert contents["rows"] == [] and contents["smoke"] is True
    assert not (tmp_path / "fewshot.json").exists()


@pytest.mark.parametrize(("plan", "options", "message"), [
    ({"methods": ("prototpye",)}, {}, "no method 'prototpye'"),
    ({"shots": (500,)}, {}, r"val\.json: .*red disc.*500"),
    ({}, {"annotations": "nowhere.json"}, r"nowhere\.json: "),
    ({}, {"annotations": None}, "support_ann is not set"),
    ({}, {"images": "nowhere"}, "nowhere: no folder"),
    ({}, {"images": "val"}, r"val\.json: .*with a shot of 'red disc', is among the evaluated images"),
    ({}, {"shots_files": ["nowhere.json"]}, r"nowhere\.json"),
])
def test_wrong_input_is_refused_before_work_is_spent(world, tmp_path, plan, options, message):
    if options.get("images") == "val":
        options = {"images": world / "val"}
    with pytest.raises(UserError, match=message) as refused:
        added(world, tmp_path, Plan(**{"methods": ("prototype",), "shots": (1,), "seeds": (0,), **plan}), **options)
    assert "\n" not in str(refused.value) and not any(tmp_path.iterdir())


def test_plans_that_make_no_sense_are_refused():
    for values in ({"shots": ()}, {"shots": (0,)}, {"seeds": (1, 1)}, {"methods": ()}, {"seeds": (-1,)}):
        with pytest.raises(UserError, match="--"):
            Plan(**values)


def detector(world: Path, **options) -> ShotDetector:
    cfg = load_config(CONFIG, (), world)
    resolve_types(cfg)
    return ShotDetector(cfg, world / "detector.pth", world / "val", **options)


def test_regions_of_base_classes_are_those_that_overlap_an_annotated_box(world):
    found = detector(world)
    regions, used = base_regions(found.model, found.cfg, 4, 0.01, seed=3)
    assert len(used) == 4 and regions.names == tuple(BASE)
    assert set(regions.labels_N.tolist()) <= {-1, 0, 1, 2, 3} and (regions.labels_N >= 0).any()
    truth = json.loads((world / "annotations" / "train.json").read_text())
    there = {one["category_id"] for one in truth["annotations"] if one["image_id"] in used}
    assert set(regions.labels_N.tolist()) - {-1} <= there
    assert torch.allclose(regions.vectors_ND.norm(dim=1), torch.ones(len(regions.vectors_ND)), atol=1e-5)


def test_codes_of_boxes_go_into_a_registry_that_a_detector_takes(world, tmp_path, capsys):
    where = {"annotations": world / "annotations" / "val.json", "images": world / "val", "data_root": world,
             "device": "cpu", "calibration_images": 6}
    one = class_codes(CONFIG, world / "detector.pth", out=tmp_path / "own", shots=2, classes=NOVEL[:1], with_base=True,
                      **where)
    assert one.names == ("red disc",) and one.provenance[0]["made_by"]["weights"].startswith("sha256:")
    assert "checkpoint" not in Origin.of(one.provenance[0]).sources  # that is for rows of a trained classifier
    before = ClassRegistry(tmp_path / "own").head()
    class_codes(CONFIG, world / "detector.pth", out=tmp_path / "own", shots=2, classes=NOVEL[1:], method="prototype",
                **where)
    head = ClassRegistry(tmp_path / "own").head()
    assert head.names == (*BASE, *NOVEL)
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(7, head.dim)).astype(np.float32))
    assert torch.equal(head.logits(rows)[:, :5], before.logits(rows)), "adding a class changes no other, to the bit"
    for wrong, message in (({"calibration_images": -1}, "--calibration-images -1"),
                           ({"out": CONFIG / "registry"}, "registry: cannot write")):
        with pytest.raises(UserError, match=message):
            class_codes(CONFIG, world / "detector.pth", **{"out": tmp_path / "other", "shots": 2, **where, **wrong})
    with pytest.raises(UserError, match="green disc"):
        class_codes(CONFIG, world / "detector.pth", out=tmp_path / "own", classes=NOVEL[1:], shots=2, **where)
    metrics = evaluate(CONFIG, world / "detector.pth", kinds=["bbox"], data_root=world, work_dir=tmp_path / "work",
                       class_head=tmp_path / "own", device="cpu")
    assert not math.isnan(metrics["novel/ap50"])


def test_boxes_of_ones_own_become_a_class(world, tmp_path):
    (tmp_path / "boxes.csv").write_text("image,x1,y1,x2,y2,class\n000101.png,5,5,30,30,gadget\n"
                                        "000104.png,8,6,40,33,gadget\n")
    head = class_codes(CONFIG, world / "detector.pth", out=tmp_path / "own", boxes=tmp_path / "boxes.csv",
                       images=world / "val", data_root=world, device="cpu", calibration_images=0)
    assert head.names == ("gadget",) and head.provenance[0]["shots"] == 2
    with pytest.raises(UserError, match="has 2 boxes of 'gadget', 3 are asked for"):
        class_codes(CONFIG, world / "detector.pth", out=tmp_path / "other", boxes=tmp_path / "boxes.csv",
                    images=world / "val", data_root=world, device="cpu", shots=3)
    (tmp_path / "far.csv").write_text("image,x1,y1,x2,y2,class\n000101.png,5,5,300,30,gadget\n")
    with pytest.raises(UserError, match=r"000101\.png"):
        class_codes(CONFIG, world / "detector.pth", out=tmp_path / "other", boxes=tmp_path / "far.csv",
                    images=world / "val", data_root=world, device="cpu")
    assert not (tmp_path / "other").exists()


def test_base_and_added_classes_stand_side_by_side_with_the_bits_they_had():
    rng = torch.Generator().manual_seed(0)
    base, more = (ClassHead(names, torch.randn(len(names), 1, 8, generator=rng), scale=scale)
                  for names, scale in ((("a", "b"), 100.0), (("c",), 10.0)))
    rows = torch.randn(5, 8, generator=rng)
    both = beside(base, more)
    assert torch.equal(both.logits(rows), torch.cat([base.logits(rows), more.logits(rows)], 1))
