"""A dataset of a few small pictures, written in a second: coloured rectangles and ellipses, boxes and polygons."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 80, 230), "yellow": (230, 210, 40)}


def write_world(root: Path, base: list[str], novel: list[str], train: int = 8, val: int = 6, size: int = 64,
                per_image: int = 3, seed: int = 0, frequencies: dict[str, str] | None = None) -> Path:
    """Images, ``annotations/{train,val}.json`` (category id = label, train: base only) and ``annotations/split.json``.

    Args:
        base, novel: class names; a class has a colour and a shape by its position.
        frequencies: class -> LVIS's "r", "c", "f"; makes the annotations LVIS ones.
    """
    rng = np.random.default_rng(seed)
    classes = base + novel
    (root / "annotations").mkdir(parents=True)
    split = {"name": "tiny", "dataset": "custom", "base": base, "novel": novel}
    (root / "annotations" / "split.json").write_text(json.dumps(split))
    categories = [{"id": i, "name": name} for i, name in enumerate(classes)]
    for category in categories if frequencies else []:
        category |= {"frequency": frequencies[category["name"]], "synonyms": [category["name"]], "synset": "x.n.01",
                     "def": "", "image_count": 5, "instance_count": 9}
    for subset, count in (("train", train), ("val", val)):
        (root / subset).mkdir()
        images, annotations = [], []
        for number in range(count):
            image_id = 100 * (subset == "val") + 3 * number + 1
            picture = Image.fromarray(rng.integers(90, 140, (size, size, 3), dtype=np.uint8))
            used = classes if subset == "val" else base
            labels = [int(rng.integers(len(used))) for _ in range(per_image)]
            if subset == "val":
                labels[0] = (number + len(base)) % len(classes)  # every class occurs
            else:
                labels[0] = number % len(base)
            for label in labels:
                x, y = (int(v) for v in rng.integers(0, size - 30, 2))
                w, h = (int(v) for v in rng.integers(20, 30, 2))
                polygon = _draw(picture, label, x, y, w, h)
                annotations.append({"id": len(annotations) + 1, "image_id": image_id, "category_id": label,
                                    "bbox": [x, y, w, h], "area": float(w * h), "iscrowd": 0,
                                    "segmentation": [polygon]})
            name = f"{image_id:06d}.png"
            picture.save(root / subset / name)
            image = {"id": image_id, "file_name": name, "height": size, "width": size}
            if frequencies:
                present = {a["category_id"] for a in annotations if a["image_id"] == image_id}
                image |= {"coco_url": f"http://images.cocodataset.org/{subset}/{name}",
                          "neg_category_ids": [c["id"] for c in categories if c["id"] not in present],
                          "not_exhaustive_category_ids": []}
            images.append(image)
        contents = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"{subset}.json").write_text(json.dumps(contents))
    return root


def _draw(picture: Image.Image, label: int, x: int, y: int, w: int, h: int) -> list[int]:
    draw = ImageDraw.Draw(picture)
    colour = list(COLOURS.values())[label % len(COLOURS)]
    if label // len(COLOURS) % 2 == 0:
        draw.rectangle((x, y, x + w - 1, y + h - 1), fill=colour)
        return [x, y, x + w, y, x + w, y + h, x, y + h]
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    points = [(x + w / 2 * (1 + np.cos(a)), y + h / 2 * (1 + np.sin(a))) for a in angles]
    draw.polygon(points, fill=colour)
    return [float(v) for point in points for v in point]


def write_caches(root: Path, width: int = 8, seed: int = 0, clip: str = "sha256:tiny", regions: int = 10) -> None:
    """``regions`` (a store over the training images) and ``head.safetensors`` (all classes), both random."""
    from ovd.stores.class_heads import ClassHead
    from ovd.stores.shards import Regions, RegionStore

    rng = np.random.default_rng(seed)
    images = json.loads((root / "annotations" / "train.json").read_text())["images"]
    ids = [image["id"] for image in images]
    writer = RegionStore.create(root / "regions", "regions", ids, images_per_shard=5, dim=width)
    for shard in range(writer.total_shards):
        contents = {}
        for image_id in writer.image_ids(shard):
            corners = rng.uniform(0, images[0]["width"] - 16, (regions, 2))
            boxes = np.concatenate([corners, corners + rng.uniform(8, 16, (regions, 2))], axis=1)
            contents[image_id] = Regions(boxes.astype(np.float32), rng.random(regions).astype(np.float32),
                                         unit_rows(rng, regions, width).astype(np.float16))
        writer.write(shard, contents)
    writer.finish("embed-regions", {}, {"clip": clip})
    split = json.loads((root / "annotations" / "split.json").read_text())
    names = tuple(split["base"] + split["novel"])
    rows = unit_rows(rng, len(names), width)
    ClassHead(names=names, weights=rows[:, None], stats={"clip": clip}).save(root / "head.safetensors")


def write_detector(root: Path, config: Path) -> Path:
    """A checkpoint of a ViLD config, ``detector.pth``: weights are random, but scores are not all alike."""
    import torch
    from mmdet.registry import MODELS

    from ovd.engine.config import load_config, resolve_types

    cfg = load_config(config, (), root)
    resolve_types(cfg)
    torch.manual_seed(1)
    model = MODELS.build(cfg.model)
    model.init_weights()
    torch.nn.init.normal_(model.roi_head.bbox_head.projection.weight, std=3.0)
    torch.nn.init.normal_(model.roi_head.bbox_head.shared_fcs[0].bias, std=1.0)
    torch.save({"state_dict": model.state_dict(), "meta": {}}, root / "detector.pth")
    return root / "detector.pth"


def unit_rows(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    """Random float32 rows of length 1, ``[count, width]``."""
    rows = rng.normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
