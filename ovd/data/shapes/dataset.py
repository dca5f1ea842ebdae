"""Write the embedded benchmark to disk: JPEG images, COCO and LVIS v1 annotations, and the base / novel split."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from ovd.data.shapes.render import SceneObject, render_scene
from ovd.data.shapes.world import TRAIN_WEIGHT, ShapeClass, supervised_split, world_classes, world_split
from ovd.engine.workers import run_tasks
from ovd.stores.atomic import atomic_write

SUBSETS = {"train": 1, "val": 2}  # part of each scene's seed, so that subsets never share a scene
JPEG_QUALITY = 95
SCENES_PER_TASK = 16
NEGATIVES = 12  # categories of an image verified as absent, in the LVIS files
NOT_EXHAUSTIVE = 0.05  # chance that a category with several objects in an image misses one, in the LVIS files


def scene(seed: int, subset: int, index: int, size: int, weighted: bool) -> tuple[np.ndarray, list[SceneObject]]:
    """Scene ``index`` of a subset; depends on its arguments alone.

    Args:
        weighted: Draw classes by their frequency tier (training) or all alike (validation).
    """
    classes = world_classes()
    weights = np.array([TRAIN_WEIGHT[c.frequency] for c in classes]) if weighted else None
    return render_scene(np.random.default_rng([seed, subset, index]), classes, weights, size)


def write_dataset(root: Path, counts: dict[str, int], seed: int, size: int, workers: int = 1) -> dict[str, dict]:
    """Render all subsets below ``root``.

    Writes ``<subset>2017/<id:012d>.jpg`` and, below ``annotations/``, ``instances_<subset>.json`` (COCO),
    ``lvis_v1_<subset>.json``, ``split.json`` and ``split_supervised.json``.

    Args:
        counts: Images per subset, e.g. ``{"train": 1000, "val": 250}``.

    Returns:
        Per subset the numbers of ``images`` and ``annotations``.
    """
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    summary = {}
    for subset, count in counts.items():
        (root / f"{subset}2017").mkdir(exist_ok=True)
        tasks = [range(count)[i:i + SCENES_PER_TASK] for i in range(0, count, SCENES_PER_TASK)]
        with tqdm(total=count, desc=f"rendering {subset}", unit="image") as bar:
            done = run_tasks(_start_writing, (root, subset, seed, size), tasks, workers, bar)
        rendered = [scene for scenes in done for scene in scenes]
        images = [image for image, _ in rendered]
        annotations = [annotation for _, found in rendered for annotation in found]
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number
        _write_json(root / "annotations" / f"instances_{subset}.json", _as_coco(images, annotations))
        rng = np.random.default_rng([seed, SUBSETS[subset]])
        _write_json(root / "annotations" / f"lvis_v1_{subset}.json", _as_lvis(images, annotations, rng))
        summary[subset] = {"images": len(images), "annotations": len(annotations)}
    _write_json(root / "annotations" / "split.json", world_split())
    _write_json(root / "annotations" / "split_supervised.json", supervised_split())
    return summary


def _start_writing(root: Path, subset: str, seed: int, size: int) -> Callable:
    """A process's function for a task: the records of some scenes, whose images it writes."""
    def write(indices: range, report: Callable[[int], None]) -> list[tuple[dict, list[dict]]]:
        records = []
        for index in indices:
            records.append(_write_scene(root, subset, index, seed, size))
            report(1)
        return records

    return write


def _write_scene(root: Path, subset: str, index: int, seed: int, size: int) -> tuple[dict, list[dict]]:
    pixels, objects = scene(seed, SUBSETS[subset], index, size, weighted=subset == "train")
    image_id = SUBSETS[subset] * 10_000_000 + index + 1
    name = f"{image_id:012d}.jpg"
    _, encoded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    with atomic_write(root / f"{subset}2017" / name) as temporary:
        temporary.write_bytes(encoded.tobytes())
    image = {"id": image_id, "file_name": name, "height": size, "width": size,
             "coco_url": f"http://images.cocodataset.org/{subset}2017/{name}"}
    return image, [_annotation(image_id, found) for found in objects]


def _annotation(image_id: int, found: SceneObject) -> dict:
    encoded = coco_mask.encode(np.asfortranarray(found.mask, dtype=np.uint8))
    x1, y1, x2, y2 = found.box
    return {"id": 0, "image_id": image_id, "category_id": found.category.id, "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": int(found.mask.sum()), "iscrowd": 0,
            "segmentation": {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}}


def _category(category: ShapeClass) -> dict:
    return {"id": category.id, "name": category.name, "supercategory": category.shape}


def _as_coco(images: list[dict], annotations: list[dict]) -> dict:
    return {"images": images, "annotations": annotations, "categories": [_category(c) for c in world_classes()]}


def _as_lvis(images: list[dict], annotations: list[dict], rng: np.random.Generator) -> dict:
    """The same scenes as a federated data set: some categories verified absent, some not exhaustively annotated."""
    ids = np.array([c.id for c in world_classes()])
    present: dict[int, Counter] = {image["id"]: Counter() for image in images}
    for annotation in annotations:
        present[annotation["image_id"]][annotation["category_id"]] += 1
    incomplete, lvis_images = {}, []
    for image in images:
        found = present[image["id"]]
        absent = np.setdiff1d(ids, list(found))
        incomplete[image["id"]] = {c for c, n in sorted(found.items()) if n > 1 and rng.random() < NOT_EXHAUSTIVE}
        lvis_images.append(image | {
            "neg_category_ids": sorted(rng.choice(absent, NEGATIVES, replace=False).tolist()),
            "not_exhaustive_category_ids": sorted(incomplete[image["id"]])})
    kept, dropped = [], set()
    for annotation in annotations:
        key = annotation["image_id"], annotation["category_id"]
        if key[1] in incomplete[key[0]] and key not in dropped:
            dropped.add(key)
            continue
        kept.append({k: v for k, v in annotation.items() if k != "iscrowd"})
    images_of, instances_of = Counter(), Counter(a["category_id"] for a in kept)
    for _, category_id in {(a["image_id"], a["category_id"]) for a in kept}:
        images_of[category_id] += 1
    categories = [
        {"id": c.id, "name": c.name, "synset": f"{c.name.replace(' ', '_')}.n.01", "synonyms": c.synonyms,
         "def": f"a {c.shape} that is {c.pattern} and {c.colour}", "frequency": c.frequency,
         "image_count": images_of[c.id], "instance_count": instances_of[c.id]}
        for c in world_classes()]
    return {"images": lvis_images, "annotations": kept, "categories": categories}


def _write_json(path: Path, content: dict) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, separators=(",", ":")))
