"""Meta-training of FCOS and what comes after it: every variant is trained, makes classes of boxes, and is evaluated."""

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_world import write_world

from ovd.engine.checkpoints import read_checkpoint
from ovd.errors import UserError
from ovd.fewshot.detection.detector import ShotDetector
from ovd.stores.class_heads import ClassHead
from ovd.stores.class_registry import ClassRegistry
from ovd.stores.manifest import Manifest
from pipelines.class_codes import class_codes
from pipelines.fewshot_eval import Plan, fewshot_eval
from pipelines.head_surgery import head_surgery
from pipelines.test import evaluate
from pipelines.train import train

CONFIG = Path(__file__).parents[1] / "tiny_sylph.py"
BASE, NOVEL = ["red box", "green box", "blue box", "yellow box"], ["red disc", "green disc"]
PLAN = Plan(("codes",), (1, 2), (0,))
FP = {"model.trainable": ["bbox_head.cls_convs"]}
SIZES = {"in_channels": 16, "out_channels": 16}
VARIANTS = {
    "fa": {}, "fp": FP, "once": {"model.code_generator": {"type": "OnceCodeGenerator", **SIZES}},
    "transformer": {"model.code_generator": {"type": "TransformerCodeGenerator", **SIZES, "norm_groups": 4, "heads": 2,
                                             "token_channels": 16, "head_channels": 16, "layers": 1}}}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = write_world(tmp_path_factory.mktemp("meta") / "data", BASE, NOVEL, train=10, val=10)
    shutil.copytree(root / "val", root / "support")
    return root


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """Each variant's checkpoint, trained when it is first asked for."""
    made = {}

    def checkpoint(variant: str) -> Path:
        if variant not in made:
            made[variant] = train(CONFIG, data_root=world, work_dir=tmp_path_factory.mktemp(variant), device="cpu",
                                  options=VARIANTS[variant], seed=1)
        return made[variant]

    return checkpoint


def where(world: Path, variant: str) -> dict:
    return {"data_root": world, "device": "cpu", "options": VARIANTS[variant], "images": world / "support",
            "annotations": world / "annotations" / "val.json"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_makes_classes_and_is_evaluated(world, trained, tmp_path, variant):
    base_shots = 2 if variant == "fp" else None
    rows = fewshot_eval(CONFIG, trained(variant), PLAN, out=tmp_path / "eval", base_shots=base_shots,
                        save_heads=True, **where(world, variant))
    for k in (1, 2):
        saved = ClassHead.load(tmp_path / "eval" / "heads" / f"codes_{k}shots_seed0.safetensors").select(NOVEL)
        assert [(one["shots"], len(one["boxes"])) for one in saved.provenance] == [(k, k)] * 2
    assert [row["shots"] for row in rows] == [1, 2]
    assert all(math.isfinite(row["figures"][key]["values"][0]) for row in rows for key in ("base/ap50", "novel/ap50"))
    class_codes(CONFIG, trained(variant), out=tmp_path / "codes", shots=2, with_base=True, base_shots=base_shots,
                **where(world, variant))
    head = ClassRegistry(tmp_path / "codes").head()
    assert head.names == (*BASE, *NOVEL)
    assert [one["source"] for one in head.provenance] == ["hypernetwork" if base_shots else "detector"] * 4 + [
        "hypernetwork"] * 2
    metrics = evaluate(CONFIG, trained(variant), data_root=world, work_dir=tmp_path / "test", device="cpu",
                       class_head=tmp_path / "codes", options=VARIANTS[variant])
    assert metrics["novel/ap50"] == pytest.approx(rows[1]["figures"]["novel/ap50"]["values"][0], abs=1e-3)
    assert metrics["base/ap50"] == pytest.approx(rows[1]["figures"]["base/ap50"]["values"][0], abs=1e-3)


def test_rows_of_base_classes_do_not_go_with_a_tower_that_was_trained_without_them(world, trained, tmp_path):
    with pytest.raises(UserError, match="--base-shots"):
        fewshot_eval(CONFIG, trained("fp"), PLAN, out=tmp_path / "eval", **where(world, "fp"))
    with pytest.raises(UserError, match="--base-shots"):
        class_codes(CONFIG, trained("fp"), out=tmp_path / "codes", with_base=True, shots=1, **where(world, "fp"))
    assert not (tmp_path / "codes").exists()
    class_codes(CONFIG, trained("fp"), out=tmp_path / "codes", shots=1, **where(world, "fp"))  # added ones need none
    with pytest.warns(UserWarning, match="not of the features"):
        evaluate(CONFIG, trained("fp"), data_root=world, work_dir=tmp_path / "test", device="cpu", options=FP)


def test_a_detector_that_is_fine_tuned_on_shots_is_sent_to_ovd_test():
    other = object.__new__(ShotDetector)
    other.model, other.cfg, other.vector_reader = torch.nn.Identity(), SimpleNamespace(filename="tfa.py"), None
    with pytest.raises(UserError, match=r"tfa\.py: Identity takes no added classes.*evaluated by ovd test"):
        other.base_head(BASE)


def test_boxes_of_ones_own_need_no_annotations_of_the_dataset(world, trained, tmp_path):
    (tmp_path / "boxes.csv").write_text("image,x1,y1,x2,y2,class\n000101.png,5,5,30,30,gadget\n")
    head = class_codes(CONFIG, trained("fa"), out=tmp_path / "own", boxes=tmp_path / "boxes.csv",
                       images=world / "val", data_root=world, device="cpu")
    assert head.names == ("gadget",)
    with pytest.raises(UserError, match="--with-base"):
        class_codes(CONFIG, trained("fa"), out=tmp_path / "own", boxes=tmp_path / "boxes.csv", base_shots=1)


def test_meta_training_that_goes_on_from_a_checkpoint_ends_as_one_in_a_piece(world, trained, tmp_path):
    options = {**VARIANTS["transformer"], "default_hooks.checkpoint.interval": 2,  # with dropout: it is random itself
               "default_hooks.checkpoint.max_keep_ckpts": 5}
    whole = train(CONFIG, data_root=world, work_dir=tmp_path / "whole", device="cpu", options=options, seed=1)
    other = train(CONFIG, data_root=world, work_dir=tmp_path / "resumed", device="cpu", options=options, seed=1,
                  resume=tmp_path / "whole" / "iter_2.pth")
    one, two = (read_checkpoint(path)["state_dict"] for path in (whole, other))
    assert all(torch.equal(one[name], two[name]) for name in one)
    start = read_checkpoint(tmp_path / "whole" / "iter_2.pth")["state_dict"]
    assert any(not torch.equal(one[name], start[name]) for name in one)


def test_what_is_made_of_a_smoke_tests_checkpoint_has_its_mark(world, tmp_path, capsys):
    train(CONFIG, data_root=world, work_dir=tmp_path / "fa", device="cpu", smoke=True)
    checkpoint = tmp_path / "fa_smoke" / "final.pth"
    head_surgery(checkpoint, tmp_path / "init.pth", split=str(world / "annotations" / "split.json"))
    class_codes(CONFIG, checkpoint, out=tmp_path / "codes", shots=1, **where(world, "fa"))
    fewshot_eval(CONFIG, checkpoint, Plan(("codes",), (1,), (0,)), out=tmp_path / "eval", **where(world, "fa"))
    made = (tmp_path / "init.pth", *(tmp_path / "codes").glob("*.safetensors"), tmp_path / "eval" / "fewshot.json")
    assert len(made) == 4 and all(Manifest.read(path).flags == {"smoke": True} for path in made)
    assert capsys.readouterr().out.count("from a smoke test") == 3
