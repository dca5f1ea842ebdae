"""Every shipped config is built, trains a step and is tested, on a small dataset in the layout that it asks for."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_world import unit_rows

from ovd.engine.config import load_config, plain, resolve_types, walk
from ovd.engine.launch import quiet
from ovd.engine.preflight import check_inputs, find_inputs
from ovd.engine.runner import DetectionRunner
from ovd.stores.class_heads import ClassHead
from ovd.stores.shards import Regions, RegionStore
from ovd.vocabulary.splits import Split, get_split

CONFIGS = sorted(path for path in (Path(__file__).resolve().parents[2] / "configs").glob("*/*.py")
                 if path.parent.name not in ("_base_", "recipes"))
SIDE = 64


def make_data(cfg, root: Path) -> None:
    """The files that a config names, with two training and two validation images."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    if cfg.split.endswith(".json"):
        Split("tiny", "custom", base=("a", "b", "c"), novel=("d", "e"), groups={"kind": ("d",)}).save(root / cfg.split)
        split = get_split(str(root / cfg.split))
    else:
        split = get_split(cfg.split)
    width = next((part["embed_dim"] for _, part in walk(cfg.model) if part.get("embed_dim")), 8)
    ids = {}
    for subset, ann, prefix in (("train", cfg.train_ann, cfg.train_prefix), ("val", cfg.val_ann, cfg.val_prefix)):
        count = split.num_base if subset == "train" else len(split.classes)
        contents = make_annotations(split, subset, count, rng)
        for image in contents["images"]:
            path = root / (prefix or f"{subset}2017") / image["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
            if not prefix:
                del image["file_name"]  # as in LVIS, where coco_url says which folder
        (root / ann).parent.mkdir(parents=True, exist_ok=True)
        (root / ann).write_text(json.dumps(contents))
        ids[subset] = [image["id"] for image in contents["images"]]
    write_store(root / cfg.region_store, ids["train"], width, rng)
    rows = unit_rows(rng, len(split.classes), width)
    (root / cfg.class_head).parent.mkdir(parents=True, exist_ok=True)
    ClassHead(names=split.classes, weights=rows[:, None], stats={"clip": "sha256:x"}).save(root / cfg.class_head)


def make_annotations(split: Split, subset: str, count: int, rng: np.random.Generator) -> dict:
    categories = [{"id": i, "name": name, "frequency": "c" if i < split.num_base else "r", "synonyms": [name],
                   "synset": "x.n.01", "def": "", "image_count": 1, "instance_count": 1}
                  for i, name in enumerate(split.classes)]
    images, annotations = [], []
    for number in range(2):
        name = f"{subset}_{number}.png"
        images.append({"id": 10 * number + 5, "file_name": name, "width": SIDE, "height": SIDE,
                       "coco_url": f"http://images.cocodataset.org/{subset}2017/{name}",
                       "neg_category_ids": [0], "not_exhaustive_category_ids": []})
        for label in (number, count - 1 - number):
            x, y = (int(v) for v in rng.integers(0, SIDE - 40, 2))
            annotations.append({"id": len(annotations) + 1, "image_id": images[-1]["id"], "category_id": label,
                                "bbox": [x, y, 36, 36], "area": 36.0 * 36, "iscrowd": 0,
                                "segmentation": [[x, y, x + 36, y, x + 36, y + 36, x, y + 36]]})
    return {"images": images, "annotations": annotations, "categories": categories}


def write_store(path: Path, ids: list[int], width: int, rng: np.random.Generator) -> None:
    writer = RegionStore.create(path, "regions", ids, dim=width)
    boxes = np.array([[4, 4, 40, 40], [10, 20, 60, 60], [0, 0, 64, 64]], dtype=np.float32)
    for shard in range(writer.total_shards):
        writer.write(shard, {i: Regions(boxes, np.array([0.9, 0.8, 0.7], dtype=np.float32),
                                        unit_rows(rng, 3, width).astype(np.float16)) for i in writer.image_ids(shard)})
    writer.finish("embed-regions", {}, {"clip": "sha256:x"})


def shrink(cfg) -> None:
    """Small images, a step or two, no downloads, no files but the log."""
    for _, part in walk(cfg):
        if isinstance(part.get("init_cfg"), dict) and part["init_cfg"].get("type") == "Pretrained":
            part["init_cfg"] = None
        if "max_per_img" in part and "nms_pre" in part:
            part.update(max_per_img=24, nms_pre=50)
        if part.get("pos_fraction"):
            part["num"] = 16
        kind = getattr(part.get("type"), "__name__", part.get("type"))
        if kind == "Resize":
            part["scale"] = (2 * SIDE, SIDE)
        elif kind == "RandomResize":
            part["scale"] = [(2 * SIDE, SIDE), (2 * SIDE, SIDE + 16)]
    for loader in (cfg.train_dataloader, cfg.get("test_dataloader")):
        if loader:
            loader.update(num_workers=0, persistent_workers=False, batch_size=1)
    cfg.train_cfg.update({"max_iters": 1} if "max_iters" in cfg.train_cfg else {"max_epochs": 1})
    cfg.default_hooks.checkpoint.update(interval=10**6, save_last=False)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_config_trains_and_is_tested(path, tmp_path):
    quiet()
    torch.manual_seed(0)
    cfg = load_config(path, data_root=tmp_path / "data", work_dir=tmp_path / "work")
    resolve_types(cfg)
    json.dumps(plain(cfg))
    make_data(cfg, tmp_path / "data")
    shrink(cfg)
    check_inputs(find_inputs(cfg, ("model", "train_dataloader", "test_dataloader")))
    detector = "roi_head" in cfg.model
    if not detector:
        cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    runner = DetectionRunner.from_config(cfg, torch.device("cpu"))
    before = {name: value.detach().clone() for name, value in runner.model.named_parameters()}
    runner.train()
    assert runner.iter == runner.max_iters
    after = dict(runner.model.named_parameters())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("rpn_conv" in name for name in moved)
    scalars = runner.message_hub.log_scalars
    assert np.isfinite(scalars["train/loss"].current())
    mode = cfg.model.get("mode")
    if mode:
        assert any("projection" in name for name in moved)
        assert ("train/loss_distill" in scalars) == (mode != "text")
        assert ("train/loss_cls" in scalars) == (mode != "image")
    if detector:
        figures = runner.test()
        assert {"base/ap50", "novel/ap50", "all/ap", "all/mask_ap50"} <= set(figures)
        assert ("rare/ap" in figures) == (cfg.test_evaluator.get("protocol") == "lvis")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_config_says_what_it_is_and_how_it_is_run(path):
    first = path.read_text().split('"""')
    assert first[0] == "", "a config begins with its docstring"
    assert path.name in first[1] and ("ovd " in first[1] or "tools/" in first[1])
