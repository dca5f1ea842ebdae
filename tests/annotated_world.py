"""A small annotated dataset whose embeddings are known: coloured squares, a direction of its own for every class."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ovd.stores.class_heads import ClassHead
from ovd.stores.shards import Regions, RegionStore

NAMES = ("red", "green", "blue", "yellow")
COLOURS = ((220, 40, 40), (40, 200, 60), (50, 80, 230), (230, 210, 40))
WIDTH = 12
RECIPE = {"kind": "clip", "scales": [1.0, 1.5], "rounding": "outward", "min_size": 0.0, "resize": "bicubic antialiased"}


def make_records(images: int = 20, seed: int = 0) -> dict:
    """COCO contents: four squares in every image of 64 pixels, one of each quarter, of any class."""
    rng = np.random.default_rng(seed)
    contents = {"images": [], "annotations": [], "categories": [{"id": i + 1, "name": n} for i, n in enumerate(NAMES)]}
    for number in range(images):
        image_id = 3 * number + 5
        contents["images"].append({"id": image_id, "file_name": f"{image_id:04d}.png", "width": 64, "height": 64})
        for quarter in range(4):
            side = int(rng.integers(14, 24))
            x, y = (int(v) for v in rng.integers(1, 31 - side, 2) + 32 * np.array([quarter % 2, quarter // 2]))
            contents["annotations"].append({
                "id": len(contents["annotations"]) + 1, "image_id": image_id, "category_id": int(rng.integers(1, 5)),
                "bbox": [x, y, side, side], "area": side * side, "iscrowd": 0})
    return contents


def draw_images(root: Path, contents: dict, seed: int = 0) -> None:
    """A picture of each image below ``root / "train"``: the squares on a background of blobs."""
    (root / "train").mkdir(parents=True)
    for image in contents["images"]:
        rng = np.random.default_rng([seed, image["id"]])
        blobs = Image.fromarray(rng.integers(60, 190, (6, 6, 3), dtype=np.uint8))
        pixels = np.array(blobs.resize((64, 64), Image.Resampling.BICUBIC))
        for a in contents["annotations"]:
            if a["image_id"] == image["id"]:
                x, y, w, h = a["bbox"]
                pixels[y:y + h, x:x + w] = COLOURS[a["category_id"] - 1]
        Image.fromarray(pixels).save(root / "train" / image["file_name"])


def prototypes() -> np.ndarray:
    """A unit row for each class, ``[4, WIDTH]``."""
    return np.eye(len(NAMES), WIDTH, dtype=np.float32)


def embed(contents: dict, seed: int = 0, noise: float = 0.08) -> dict[int, np.ndarray]:
    """Unit rows by annotation id: the class's, and noise that depends on the box alone."""
    rows = {}
    for a in contents["annotations"]:
        rng = np.random.default_rng([seed, a["image_id"], *a["bbox"]])
        row = prototypes()[a["category_id"] - 1] + noise * rng.normal(size=WIDTH)
        rows[a["id"]] = (row / np.linalg.norm(row)).astype(np.float16)
    return rows


def write_store(path: Path, contents: dict, rows: dict[int, np.ndarray], clip: str = "sha256:tiny") -> RegionStore:
    """The store of annotated boxes that the stages would make."""
    by_image = {image["id"]: [] for image in contents["images"]}
    for a in contents["annotations"]:
        by_image[a["image_id"]].append(a)
    writer = RegionStore.create(path, "regions", by_image, images_per_shard=7, dim=WIDTH)
    for shard in range(writer.total_shards):
        writer.write(shard, {i: _regions(by_image[i], rows) for i in writer.image_ids(shard)})
    writer.finish("embed-regions", {"recipe": RECIPE}, {"clip": clip})
    return RegionStore(path)


def _regions(here: list[dict], rows: dict[int, np.ndarray]) -> Regions:
    boxes = np.array([a["bbox"] for a in here], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Regions(boxes.astype(np.float32), np.ones(len(here), np.float32),
                   np.array([rows[a["id"]] for a in here], np.float16).reshape(-1, WIDTH))


def write_head(path: Path, clip: str = "sha256:tiny") -> ClassHead:
    """The class head of the world's classes."""
    head = ClassHead(NAMES, prototypes()[:, None], scale=20.0, stats={"clip": clip})
    head.save(path)
    return head


def write_config(path: Path, root: Path) -> Path:
    """A config that names all of it."""
    path.write_text(f'data_root = "{root}"\ntrain_ann = "annotations/train.json"\ntrain_prefix = "train"\n'
                    'region_store = "regions/proposals"\nclass_head = "head.safetensors"\n'
                    'regions = dict(pretrained="shapes")\n')
    return path


def write_annotations(root: Path, contents: dict) -> Path:
    """``annotations/train.json`` below ``root``."""
    path = root / "annotations" / "train.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents))
    return path


