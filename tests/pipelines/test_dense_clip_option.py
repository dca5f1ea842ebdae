"""``ovd test --dense-clip``: a frozen CLIP's opinion for a detector that was trained without it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from open_clip.model import CLIP
from tiny_world import write_caches, write_world
from torch.nn import functional as F

from ovd.clip.dense import DenseEncoder
from ovd.clip.tokenizer import used_bpe_ids
from ovd.clip.towers import load_clip, save_described
from ovd.data.rgb import load_rgb
from ovd.engine.config import load_config
from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead
from pipelines.cli import run_stage
from pipelines.test import DenseOptions

BASE, NOVEL = ["red", "green", "blue"], ["yellow", "violet"]
CONFIG = {"embed_dim": 8, "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "image_size": 32},
          "text_cfg": {"context_length": 12, "vocab_size": 9, "width": 16, "heads": 2, "layers": 1}}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Pictures with a class head of a small CLIP, ``clip.safetensors``, and a detector's weights, ``final.pth``."""
    root = write_world(tmp_path_factory.mktemp("world") / "data", BASE, NOVEL)
    torch.manual_seed(4)
    save_described(root / "clip.safetensors", CLIP(**CONFIG), CONFIG, used_bpe_ids(["a photo of a red star."])[:7], {})
    write_caches(root, clip=load_clip(str(root / "clip.safetensors")).fingerprint)
    return root


@pytest.fixture(scope="module")
def checkpoint(root, world):
    detector = MODELS.build(load_config(root / "tests" / "tiny_vild.py", data_root=world).model)
    detector.init_weights()
    torch.save({"state_dict": detector.state_dict(), "meta": {}}, world / "final.pth")
    return world / "final.pth"


def clips_accuracy(world, names: list[str], scales: tuple[float, ...]) -> float:
    """Per cent of the annotated boxes of classes ``names`` whose likeliest class, by CLIP alone, is their own."""
    truth = json.loads((world / "annotations" / "val.json").read_text())
    encoder = DenseEncoder(load_clip(str(world / "clip.safetensors")), scales)
    head = ClassHead.load(world / "head.safetensors")
    hits = []
    for image in truth["images"]:
        pixels = torch.from_numpy(np.array(load_rgb(world / "val" / image["file_name"]))).permute(2, 0, 1)[None].float()
        for annotation in truth["annotations"]:
            if annotation["image_id"] == image["id"] and (BASE + NOVEL)[annotation["category_id"]] in names:
                x, y, w, h = annotation["bbox"]
                embedding = F.normalize(encoder(pixels, torch.tensor([[0.0, x, y, x + w, y + h]])), dim=1)
                label = int((embedding @ F.normalize(head.weights[:, 0], dim=1).T).argmax())
                hits.append(label == annotation["category_id"])
    return 100 * sum(hits) / len(hits)


def test_with_all_the_weight_the_clip_alone_names_the_boxes(root, world, checkpoint, tmp_path):
    done = subprocess.run(
        [sys.executable, "tools/test.py", "tests/tiny_vild.py", checkpoint, "--data-root", world, "--work-dir",
         tmp_path, "--device", "cpu", "--eval", "bbox", "--diagnostics", "--dense-clip", world / "clip.safetensors",
         "--dense-alpha", "1", "--dense-beta", "1", "--dense-scales", "1", "2"],
        cwd=root, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert figures["base/accuracy"] == pytest.approx(clips_accuracy(world, BASE, (1, 2)))
    assert figures["novel/accuracy"] == pytest.approx(clips_accuracy(world, NOVEL, (1, 2)))


@pytest.mark.parametrize(("options", "message"), [
    (("--dense-clip",), "names no CLIP (regions.pretrained)"),
    (("--dense-alpha", "0.5"), "there is no dense CLIP; pass --dense-clip"),
    (("--dense-clip", "shapes"), "made with another CLIP"),
    (("--dense-clip", "shapes", "--dense-beta", "2"), "--dense-beta 2: needs a number from 0 to 1"),
    (("--dense-clip", "no.safetensors"), "no.safetensors: not found")])
def test_a_mistake_is_one_line_before_anything_begins(root, world, checkpoint, tmp_path, capfd, options, message):
    status = run_stage("test", [str(root / "tests" / "tiny_vild.py"), str(checkpoint), "--data-root", str(world),
                                "--work-dir", str(tmp_path), "--device", "cpu", *options])
    lines = capfd.readouterr().err.strip().splitlines()
    assert status == 2 and len(lines) == 1 and message in lines[0]
    assert not list(tmp_path.iterdir())


def test_the_configs_own_clip_is_the_default_and_its_settings_stay(root, world):
    cfg = load_config(root / "tests" / "tiny_vild.py", {"+regions.pretrained": "RN50"}, world)
    DenseOptions("").apply(cfg)
    assert cfg.model.dense_clip.pretrained == "RN50"
    cfg.model.dense_clip.temperature = 0.02
    DenseOptions(scales=(1.0,), beta=0.4).apply(cfg)
    assert (cfg.model.dense_clip.temperature, cfg.model.dense_clip.scales) == (0.02, (1.0,))
    assert cfg.model.test_cfg.rcnn.rescore_beta == 0.4 and "rescore_alpha" not in cfg.model.test_cfg.rcnn
    with pytest.raises(UserError, match="pass --dense-clip"):
        DenseOptions(class_head="x").apply(load_config(root / "tests" / "tiny_vild.py", (), world))
