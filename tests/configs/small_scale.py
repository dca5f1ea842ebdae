"""A config at a size at which it trains a step in a second: narrow, on a few small pictures, in the layout it asks for.

The config is the shipped file; what changes is sizes (channels, images, numbers of RoIs, iterations), not structure.
"""

import json
from pathlib import Path

import numpy as np
from mmengine.config import Config
from PIL import Image
from tiny_world import unit_rows

from ovd.engine.config import walk
from ovd.stores.class_heads import ClassHead
from ovd.stores.shards import Regions, RegionStore
from ovd.vocabulary.splits import Split, get_split

SIDE = 64
NARROW = 8  # channels are divided by this
WIDTHS = ("in_channels", "out_channels", "feat_channels", "conv_out_channels", "fc_out_channels")
STORES = {"region_store": "objects", "block_store": "blocks", "global_store": "globals"}


def make_data(cfg: Config, root: Path) -> Split:
    """The files that a config names, with two images a subset; the split that is meant."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    if cfg.split.endswith(".json"):
        split = Split("tiny", "custom", base=("a", "b", "c"), novel=("d", "e"), groups={"kind": ("d",)})
        for path in {part["split"] for _, part in walk(cfg) if isinstance(part.get("split"), str)}:
            split.save(root / path)
    else:
        split = get_split(cfg.split)
    width = next((part["embed_dim"] for _, part in walk(cfg.model) if part.get("embed_dim")), 8)
    subsets = [("train", cfg.train_prefix)] if cfg.train_dataloader else []
    for subset, prefix in [*subsets, ("val", cfg.val_prefix)]:
        loader = cfg.get("train_dataloader" if subset == "train" else "test_dataloader")
        dataset = next(part for _, part in walk(loader) if part.get("ann_file"))
        base_only = subset == "train" and "learn" not in dataset
        contents = annotations(split, subset, split.num_base if base_only else len(split.classes), rng)
        for image in contents["images"]:
            path = root / (prefix or f"{subset}2017") / image["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
            if not prefix:
                del image["file_name"]  # as in LVIS, where coco_url says which folder
        (root / dataset["ann_file"]).parent.mkdir(parents=True, exist_ok=True)
        (root / dataset["ann_file"]).write_text(json.dumps(contents))
        for key, level in STORES.items():
            if dataset.get(key):
                write_store(root / dataset[key], [image["id"] for image in contents["images"]], level, width, rng)
    for name in {part["class_head"] for _, part in walk(cfg.model) if part.get("class_head")}:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        ClassHead(names=split.classes, weights=unit_rows(rng, len(split.classes), width)[:, None],
                  stats={"clip": "sha256:x"}).save(root / name)
    return split


def annotations(split: Split, subset: str, count: int, rng: np.random.Generator) -> dict:
    """A json in LVIS's format; the objects are of the first ``count`` classes."""
    categories = [{"id": i, "name": name, "frequency": "c" if i < split.num_base else "r", "synonyms": [name],
                   "synset": "x.n.01", "def": "", "image_count": 1, "instance_count": 1}
                  for i, name in enumerate(split.classes)]
    images, objects = [], []
    for number in range(2):
        name = f"{subset}_{number}.png"
        images.append({"id": 10 * number + 5, "file_name": name, "width": SIDE, "height": SIDE,
                       "coco_url": f"http://images.cocodataset.org/{subset}2017/{name}",
                       "neg_category_ids": [0], "not_exhaustive_category_ids": []})
        for label in (number, count - 1 - number):
            x, y = (int(v) for v in rng.integers(0, SIDE - 40, 2))
            objects.append({"id": len(objects) + 1, "image_id": images[-1]["id"], "category_id": label,
                            "bbox": [x, y, 36, 36], "area": 36.0 * 36, "iscrowd": 0,
                            "segmentation": [[x, y, x + 36, y, x + 36, y + 36, x, y + 36]]})
    return {"images": images, "annotations": objects, "categories": categories}


def write_store(path: Path, ids: list[int], level: str, width: int, rng: np.random.Generator) -> None:
    """Three regions an image; of whole images one."""
    boxes = np.array([[0, 0, SIDE, SIDE], [4, 4, 40, 40], [10, 20, 60, 60]], dtype=np.float32)
    boxes = boxes[:1] if level == "globals" else boxes
    writer = RegionStore.create(path, "regions", ids, dim=width)
    for shard in range(writer.total_shards):
        writer.write(shard, {i: Regions(boxes, np.linspace(0.9, 0.7, len(boxes), dtype=np.float32),
                                        unit_rows(rng, len(boxes), width).astype(np.float16))
                             for i in writer.image_ids(shard)})
    writer.finish("embed-regions", {"what": level}, {"clip": "sha256:x"})


def shrink(cfg: Config, num_classes: int) -> None:
    """Small images, narrow layers, one step, no downloads, no files but the log; in place."""
    for _, part in walk(cfg):
        kind = getattr(part.get("type"), "__name__", part.get("type"))
        if isinstance(part.get("init_cfg"), dict) and part["init_cfg"].get("type") == "Pretrained":
            part["init_cfg"] = None
        if "max_per_img" in part and "nms_pre" in part:
            part.update(max_per_img=24, nms_pre=50)
        if part.get("pos_fraction"):
            part["num"] = 16
        if kind == "Resize":
            part["scale"] = (2 * SIDE, SIDE)
        elif kind == "RandomResize":
            part["scale"] = (SIDE, SIDE) if "ratio_range" in part else [(2 * SIDE, SIDE), (2 * SIDE, SIDE + 16)]
        elif kind == "RandomChoiceResize":
            part["scales"] = [(2 * SIDE, SIDE), (2 * SIDE, SIDE + 16)]
        elif kind == "RandomCrop":
            part["crop_size"] = (SIDE, SIDE)
        elif kind == "BatchFixedSizePad":
            part["size"] = (SIDE, SIDE)
        elif kind == "OpenVocabDataset":
            part["serialize_data"] = False
        elif kind == "EpisodeDataset":
            part.update(n_way=2, k_shot=2, n_query=1)
        elif kind == "PreciseBNHook":
            part["batches"] = 1
        for key in ("norm_groups", "num_groups"):
            if part.get(key):
                part[key] = 4
    if cfg.model.neck.in_channels == [256, 512, 1024, 2048]:  # not where a tower brings its own weights
        make_narrow(cfg.model)
    for _, part in walk(cfg.model):
        if part.get("num_classes", 1) > 1:
            part["num_classes"] = num_classes
    for section in ("val_dataloader", "val_cfg", "val_evaluator"):
        cfg[section] = None
    for loader, size in ((cfg.train_dataloader, 2), (cfg.get("test_dataloader"), 1)):
        if loader:
            loader.update(num_workers=0, persistent_workers=False, pin_memory=False, batch_size=size)
            if loader.get("collate_fn"):
                loader.batch_size = 1  # a batch is an episode
    cfg.load_from = None
    if cfg.get("train_cfg"):
        cfg.train_cfg.update({"max_iters": 1} if "max_iters" in cfg.train_cfg else {"max_epochs": 1})
    cfg.default_hooks.checkpoint.update(interval=10**6, save_last=False)


def make_narrow(model: dict) -> None:
    """Divide the widths of a detector on a ResNet, in place."""
    model["backbone"]["base_channels"] = 64 // NARROW
    for _, part in walk(model):
        for key in WIDTHS:
            if isinstance(part.get(key), int):
                part[key] //= NARROW
            elif isinstance(part.get(key), list):
                part[key] = [value // NARROW for value in part[key]]
