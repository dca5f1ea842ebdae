"""Every shipped config is built, trains a step and is tested, on a small dataset in the layout that it asks for.

Those that are made of public weights train nothing and have no dataset: they are built with random weights, and detect.
"""

import json
import re
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from small_scale import SIDE, make_data, make_narrow, shrink

from ovd.apis import load
from ovd.clip.towers import save_described
from ovd.engine.config import load_config, plain, resolve_types, walk
from ovd.engine.launch import quiet
from ovd.engine.preflight import check_class_heads, check_inputs, find_inputs
from ovd.engine.runner import DetectionRunner
from ovd.errors import UserError

ROOT = Path(__file__).resolve().parents[2] / "configs"
CONFIGS = sorted(path for path in ROOT.glob("*/*.py") if path.parent.name not in ("_base_", "recipes"))
UNTRAINED = [path for path in CONFIGS if path.parent.name == "clip_on_crops"]
TRANSFERS = [path for path in CONFIGS if path.parent.name == "transfer"]


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.fixture(autouse=True)
def no_formatted_config(monkeypatch):
    """The record of a config in log and checkpoint has its own tests; formatting it takes longer than a step here."""
    monkeypatch.setattr("ovd.engine.runner.RecordedConfig.pretty_text", "")


@pytest.mark.parametrize("path", [path for path in CONFIGS if path not in UNTRAINED], ids=name)
def test_config_trains_and_is_tested(path, tmp_path):
    quiet()
    torch.manual_seed(0)
    cfg = load_config(path, data_root=tmp_path / "data", work_dir=tmp_path / "work")
    resolve_types(cfg)
    json.dumps(plain(cfg))
    split = make_data(cfg, tmp_path / "data")
    shrink(cfg, len(split.classes))
    check_inputs(find_inputs(cfg, ("model", "train_dataloader", "test_dataloader")))
    check_class_heads(cfg.model)
    detector = bool({"roi_head", "bbox_head"} & set(cfg.model))
    if not detector:
        cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    runner = DetectionRunner.from_config(cfg, torch.device("cpu"))
    if cfg.train_dataloader:
        trains_a_step(runner, cfg)
    if detector:
        is_tested(runner, cfg)


@pytest.mark.parametrize("path", UNTRAINED, ids=name)
def test_config_without_training_detects(path, tmp_path, monkeypatch):
    """Its structure as it is shipped; CLIP, sizes and weights are small, random ones."""
    clip = {"embed_dim": 16, "text_cfg": {"context_length": 16, "width": 16, "heads": 1, "layers": 1},
            "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 16, "patch_size": 8}}
    torch.manual_seed(0)
    save_described(tmp_path / "clip.safetensors", open_clip.CLIP(**clip), clip, None, {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cfg = load_config(path)
    assert not cfg.get("train_dataloader") and not cfg.get("load_from")
    options = {"model.clip.pretrained": str(tmp_path / "clip.safetensors"), "model.proposer.max_per_image": 5,
               "class_head": None, "classes": "voc"}
    if "checkpoint" in cfg.model.proposer:
        rpn = Path(ROOT.parent, cfg.model.proposer.config)
        init_default_scope("mmdet")
        parts = MODELS.build(load_config(rpn).model)
        torch.save({"state_dict": parts.state_dict(), "meta": {}}, tmp_path / "rpn.pth")
        options |= {"model.proposer.config": str(rpn), "model.proposer.checkpoint": str(tmp_path / "rpn.pth")}
    else:
        options |= {"model.proposer.weights": None, "model.proposer.min_size": SIDE, "model.proposer.proposals": 20}
    detector = load(path, device="cpu", options=options, vocabulary=["zebra", "traffic cone"])
    pixels = np.random.default_rng(0).integers(0, 255, (SIDE, 2 * SIDE, 3), dtype=np.uint8)
    found = detector.detect([pixels], threshold=0.0)[0]
    assert 0 < len(found) <= 10 and set(found.names) <= {"zebra", "traffic cone"}
    assert (found.boxes <= [2 * SIDE, SIDE, 2 * SIDE, SIDE]).all() and (found.boxes >= 0).all()
    with pytest.raises(UserError, match="not trained"):
        detector._parts.model.loss(None, None)


def trains_a_step(runner: DetectionRunner, cfg) -> None:
    runner.model.init_weights()  # once: what moves after it has learned
    before = {key: value.detach().clone() for key, value in runner.model.named_parameters()}
    runner.train()
    assert runner.iter == runner.max_iters
    moved = {key for key, value in runner.model.named_parameters() if not torch.equal(before[key], value)}
    scalars = runner.message_hub.log_scalars
    losses = {key.removeprefix("train/"): value.current() for key, value in scalars.items() if "loss" in key}
    assert np.isfinite(list(losses.values())).all()
    if "code_generator" in cfg.model:  # learns from episodes; parts that are frozen stay to the bit
        assert any(key.startswith("code_generator.") for key in moved)
        assert not any(key.startswith(("backbone.", "neck.")) or "reg" in key for key in moved)
        assert not any("bbox" in key for key in losses)
    elif cfg.model.get("frozen"):  # few-shot fine-tuning: what is not frozen learns, to the last layer
        trained = set(runner.model.freezing.trainable)
        assert moved <= trained and {key for key in trained if re.search(r"cls.*weight", key)} <= moved
    else:
        assert any(("rpn_conv" if "rpn_head" in cfg.model else "conv_reg") in key for key in moved)
    mode = None if "code_generator" in cfg.model else cfg.model.get("mode")
    if mode:
        assert any("projection" in key for key in moved)
        assert any("loss_distill" in key for key in losses) == (mode != "text")
        assert any("loss_cls" in key for key in losses) == (mode != "image")
    if mode == "ensemble":
        for head in ("bbox_head", "image_head"):
            assert any(head in key and "projection" in key for key in moved)
    for key in ("block", "global"):
        if cfg.model.get("roi_head", {}).get(f"{key}_head"):
            assert any(key in loss for loss in losses)


def is_tested(runner: DetectionRunner, cfg) -> None:
    figures = runner.test()
    assert {"base/ap50", "novel/ap50", "all/ap"} <= set(figures)
    assert ("all/mask_ap50" in figures) == (cfg.test_evaluator.get("metric") != "bbox")
    assert ("rare/ap" in figures) == (cfg.test_evaluator.get("protocol") == "lvis")
    assert ("all/voc07_ap50" in figures) == cfg.split.startswith("voc")


@pytest.mark.parametrize("path", TRANSFERS, ids=name)
def test_a_transfer_takes_the_checkpoint_that_its_command_names(path):
    trained = re.search(r"work_dirs/(\w+)/final.pth", path.read_text())[1]
    shapes = []
    for config in (path, *ROOT.glob(f"*/{trained}.py")):
        model = load_config(config).model
        for _, part in walk(model):
            if "class_head" in part:
                part.update(class_head=None, split=None)
        make_narrow(model)
        init_default_scope("mmdet")
        shapes.append({key: value.shape for key, value in MODELS.build(model).state_dict().items()})
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_config_says_what_it_is_and_how_it_is_run(path):
    first = path.read_text().split('"""')
    assert first[0] == "", "a config begins with its docstring"
    assert path.name in first[1] and ("ovd " in first[1] or "tools/" in first[1])


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_files_that_a_docstring_names_exist(path):
    docstring = path.read_text().split('"""')[1]
    for named in set(re.findall(r"configs/[\w/]+\.py|docs/[\w/]+\.md", docstring)):
        assert (ROOT.parent / named).is_file(), named
    for named in set(re.findall(r"(?<![\w/])\w+\.py", docstring)):
        assert any(ROOT.rglob(named)), named


def test_the_page_of_configs_names_them_all():
    stand_for = {"D": ("coco_48_17", "coco_65_15", "lvis_866_337"), "M": ("vild", "vild_star", "detpro"),
                 "T": ("coco", "objects365_v1", "objects365_v2", "voc")}
    folders = ("rpn", "vild", "vild_star", "detpro", "oadp", "transfer", "tfa")
    page = (ROOT.parent / "docs" / "configs.md").read_text()
    names = set(re.findall(rf"`((?:{'|'.join(folders)})/\w+)`", page))
    for letter, meanings in stand_for.items():
        names = {re.sub(rf"(?<![A-Za-z]){letter}(?![A-Za-z])", meaning, one) for one in names for meaning in meanings}
    assert names == {name(path) for path in CONFIGS if path.parent.name in folders}
