"""The chain of docs/real_photos.md, command by command, on a dozen real photos at a small size."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ovd.engine.checkpoints import read_checkpoint
from ovd.stores.class_heads import ClassHead
from ovd.stores.manifest import Manifest
from ovd.stores.shards import RegionStore
from ovd.vocabulary.classes import COCO_NAMES
from ovd.vocabulary.splits import get_split

PHOTOS = 12
SMALL = "image_scale=(192,128)"
TOWER = "untrained:ViT-M-32"

pytestmark = pytest.mark.slow


def copy_photos(source: Path, target: Path) -> None:
    """Photos with few, large objects, half of them with a novel one."""
    contents = json.loads((source / "instances_train2017.json").read_text())
    names = {category["id"]: category["name"] for category in contents["categories"]}
    novel = set(get_split("48_17").novel)
    objects = {image["id"]: [names[a["category_id"]] for a in contents["annotations"] if a["image_id"] == image["id"]]
               for image in contents["images"]}
    few = [image for image in contents["images"] if 0 < len(objects[image["id"]]) <= 6]
    chosen = [i for i in few if novel & set(objects[i["id"]])][:PHOTOS // 2]
    chosen += [i for i in few if not novel & set(objects[i["id"]])][:PHOTOS - len(chosen)]
    ids = {image["id"] for image in chosen}
    target.mkdir()
    (target / "images").symlink_to(source / "images")
    contents["images"] = chosen
    contents["annotations"] = [a for a in contents["annotations"] if a["image_id"] in ids]
    (target / "instances_train2017.json").write_text(json.dumps(contents))


@pytest.fixture(scope="module")
def chain(shared, root, tmp_path_factory):
    """Everything made once: ``data`` and ``work`` folders, and what each command printed."""
    folder = tmp_path_factory.mktemp("real_photos")
    data, work = folder / "coco128", folder / "work"
    copy_photos(shared / "data" / "coco128", data)
    backbone = shared / "weights" / "resnet50_imagenet_caffe_bgr_fp16.safetensors"
    matrix = shared / "data" / "clip_text" / "detic_coco_clip_a+cname.npy"
    printed = {}

    def tool(name: str, *arguments, status: int = 0, key: str | None = None) -> None:
        command = [sys.executable, root / "tools" / name, *map(str, arguments), "--data-root", data]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=root,
                              env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == status, done.stdout + done.stderr
        printed[key or name] = done.stdout + done.stderr

    rpn, vild = root / "configs" / "coco128" / "rpn.py", root / "configs" / "coco128" / "vild.py"
    sizes = ["--cfg-options", SMALL, f"backbone_weights={backbone}"]
    source = "instances_train2017.json"
    tool("build_zsl_dataset.py", "--split", "48_17", "--train-ann", source, "--val-ann", source)
    tool("class_embeddings.py", "--import-matrix", matrix, "--dataset", "coco", "--config", vild)
    tool("train.py", rpn, "--work-dir", work / "rpn", *sizes, "train_cfg.max_iters=3", key="rpn")
    tool("extract_proposals.py", rpn, work / "rpn" / "final.pth", "--subset", "val", "--processes", "1", *sizes)
    regions = ["region_embeddings.py", vild, "--pretrained", TOWER, "--processes", "1"]
    tool(*regions, status=2, key="refused")
    tool(*regions, "--allow-untrained", "--cfg-options", "regions.top_k=2")
    tool("train.py", vild, "--work-dir", work / "vild", *sizes, "train_cfg.max_iters=3")
    tool("test.py", vild, work / "vild" / "final.pth", "--eval", "bbox", "segm", "--work-dir", work / "vild",
         "--out", work / "detections.json", "--show-dir", work / "pictures", "--show-limit", "4", "--show-score", "0.0",
         *sizes, "model.test_cfg.rcnn.score_thr=0.0")  # three iterations make nobody certain
    return SimpleNamespace(data=data, work=work, printed=printed, backbone=backbone, matrix=matrix)


def test_training_sees_base_classes_and_evaluation_all(chain):
    train, val = (json.loads((chain.data / "annotations" / f"instances_train2017_48_17{suffix}.json").read_text())
                  for suffix in ("", "_val"))
    assert len(train["images"]) == len(val["images"]) == PHOTOS and len(val["categories"]) == 65
    assert max(a["category_id"] for a in train["annotations"]) < 48
    assert any(a["category_id"] >= 48 for a in val["annotations"])


def test_the_class_head_holds_the_real_text_embeddings(chain):
    head = ClassHead.load(chain.data / "class_heads" / "coco_clip.safetensors")
    rows = np.load(chain.matrix).astype(np.float32)
    for name in ("person", "cat", "scissors"):
        own = head.select([name]).weights.reshape(-1)
        row = rows[COCO_NAMES.index(name)]
        cosine = float(np.dot(own, row) / np.linalg.norm(own) / np.linalg.norm(row))
        assert cosine == pytest.approx(1, abs=1e-5)


def test_proposals_cover_the_photos_and_their_recall_is_printed(chain):
    store = RegionStore(chain.data / "proposals" / "coco128")
    images = json.loads((chain.data / "instances_train2017.json").read_text())["images"]
    assert store.image_ids.tolist() == sorted(image["id"] for image in images)
    sizes = {image["id"]: (image["width"], image["height"]) for image in images}
    for image_id in store.image_ids.tolist():
        boxes = store[image_id].boxes
        assert len(boxes) > 100 and (boxes >= 0).all() and (boxes[:, 2:] <= sizes[image_id]).all()
    assert len(store.manifest.flags["trained_on"]) == 48 and not store.manifest.flags["trained_on_novel"]
    table = chain.printed["extract_proposals.py"]
    assert all(word in table for word in ("base", "novel", "AR@100", "AR@300", "AR@1000"))


def test_an_untrained_tower_needs_permission_and_leaves_its_mark(chain):
    last = chain.printed["refused"].strip().splitlines()[-1]
    assert last.startswith("error: ") and "--allow-untrained" in last
    assert RegionStore(chain.data / "regions" / "coco128").manifest.flags == {"untrained": True}
    assert "WARNING" in chain.printed["train.py"] and "WARNING" not in chain.printed["rpn"]
    assert Manifest.read(chain.work / "vild" / "final.pth").flags == {"untrained": True}
    assert not Manifest.read(chain.work / "rpn" / "final.pth").flags
    assert "WARNING" in chain.printed["test.py"]
    assert json.loads((chain.work / "vild" / "metrics.json").read_text())["untrained"] is True


def test_the_backbone_is_the_one_from_imagenet(chain):
    file = load_file(chain.backbone)
    for run in ("rpn", "vild"):
        weights = read_checkpoint(chain.work / run / "final.pth")["state_dict"]
        for name in ("conv1.weight", "layer1.2.conv3.weight", "layer2.0.downsample.0.weight"):  # frozen
            torch.testing.assert_close(weights[f"backbone.{name}"], file[name].float(), rtol=0, atol=0)
        assert all(torch.isfinite(value).all() for value in weights.values())


def test_the_run_ends_with_figures_detections_and_pictures(chain):
    figures = json.loads((chain.work / "vild" / "metrics.json").read_text())
    for group in ("base", "novel", "all"):
        for name in ("ap50", "ap", "mask_ap50", "mask_ap"):
            assert 0 <= figures[f"{group}/{name}"] <= 100
    detections = json.loads((chain.work / "detections.json").read_text())
    assert detections and {"image_id", "category_id", "bbox", "score", "segmentation"} <= set(detections[0])
    pictures = sorted((chain.work / "pictures").iterdir())
    assert len(pictures) == 4
    for picture in pictures:
        with Image.open(picture) as image:
            image.load()
            assert min(image.size) > 100
