"""LVIS evaluation: ``ovd evaluate`` against lvis-api, from the same files of ground truth and of detections.

LVIS-like ground truth with 1203 classes (federated: a few classes of an image are known to be absent or not marked
everywhere), and detections of which a third are near an object. Each evaluator runs in a process of its own, from
reading the two files to the figures, which gives its peak memory. AP, AP50, AP75, APs, APm, APl, APr, APc and APf
must be equal to 1e-9 before anything is printed.

LVIS val's size, for which lvis-api needs 40 GB of memory and an hour (``--kind segm`` compares masks):

    python benchmarks/lvis_evaluation.py --images 19809
"""

import argparse
import json
import math
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from figures import print_figure

from ovd.vocabulary.classes import LVIS_V1

WIDTH, HEIGHT = 640, 480
FIGURES = {"AP": "all/ap", "AP50": "all/ap50", "AP75": "all/ap75", "APs": "all/ap_small", "APm": "all/ap_medium",
           "APl": "all/ap_large", "APr": "rare/ap", "APc": "common/ap", "APf": "frequent/ap"}


def generate(folder: Path, images: int, per_image: int, masks: bool, seed: int = 0) -> None:
    """Write ``truth.json`` and ``found.json``: 12 objects and ``per_image`` detections an image."""
    rng = np.random.default_rng(seed)
    categories = [{"id": c.id, "name": c.name, "synset": c.synset, "frequency": c.frequency, "synonyms": [c.name],
                   "def": "", "image_count": 1, "instance_count": 1} for c in LVIS_V1]
    truth = {"info": {}, "licenses": [], "images": [], "annotations": [], "categories": categories}
    with open(folder / "found.json", "w") as file:
        separator = "["
        for image_id in range(1, images + 1):
            boxes, labels = _boxes(rng, 12), rng.integers(1, 1204, 12)
            present = set(labels.tolist())
            truth["images"].append({
                "id": image_id, "width": WIDTH, "height": HEIGHT, "not_exhaustive_category_ids": labels[:1].tolist(),
                "coco_url": f"http://images.cocodataset.org/val2017/{image_id:012d}.jpg",
                "neg_category_ids": [int(i) for i in rng.integers(1, 1204, 20) if int(i) not in present],
            })  # fmt: skip
            for box, label in zip(boxes.tolist(), labels.tolist()):
                truth["annotations"].append({
                    "id": len(truth["annotations"]) + 1, "image_id": image_id, "category_id": label, "bbox": box,
                    "area": box[2] * box[3], "segmentation": [_octagon(box)],
                })  # fmt: skip
            source = rng.integers(0, 12, per_image // 3)
            near = boxes[source] + rng.normal(0, 0.06, (len(source), 4)) * boxes[source][:, [2, 3, 2, 3]]
            found = np.vstack([near, _boxes(rng, per_image - len(source))]).astype(np.float32).astype(float)
            found[:, 2:] = found[:, 2:].clip(1)
            # most wrong names are of a class that the image is known not to have, so that they count
            judged = np.array([*present, *truth["images"][-1]["neg_category_ids"]])
            names = np.concatenate([labels[source], rng.choice(judged, per_image - len(source))])
            wrong = rng.random(per_image) < 0.2
            names[wrong] = rng.integers(1, 1204, int(wrong.sum()))
            scores = (rng.random(per_image) * np.where(np.arange(per_image) < len(source), 1, 0.6)).astype(np.float32)
            rows = [{"image_id": image_id, "category_id": int(label), "bbox": box, "score": float(score)}
                    for box, label, score in zip(found.tolist(), names, scores)]
            for row, encoding in zip(rows, _encoded(found) if masks else ()):
                row["segmentation"] = encoding
            file.write(separator + json.dumps(rows)[1:-1])
            separator = ", "
        file.write("]")
    (folder / "truth.json").write_text(json.dumps(truth))


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """x, y, width, height of all sizes, within the image."""
    size = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
    corner = rng.random((count, 2)) * (np.array([WIDTH, HEIGHT]) - size)
    return np.hstack([corner, size]).round(2)


def _octagon(box: list[float]) -> list[float]:
    x, y, w, h = box
    at = ((0.3, 0), (0.7, 0), (1, 0.3), (1, 0.7), (0.7, 1), (0.3, 1), (0, 0.7), (0, 0.3))
    return [round(value, 2) for u, v in at for value in (x + u * w, y + v * h)]


def _encoded(boxes: np.ndarray) -> list[dict]:
    from pycocotools import mask

    encodings = mask.frPyObjects([_octagon(box) for box in boxes.tolist()], HEIGHT, WIDTH)
    return [{"size": one["size"], "counts": one["counts"].decode()} for one in encodings]


def with_ovd(folder: Path, kind: str) -> dict[str, float]:
    """What ``ovd evaluate --protocol lvis`` does."""
    from pipelines.evaluate import evaluate_file

    figures = evaluate_file(folder / "found.json", folder / "truth.json", "866_337", kinds=[kind], protocol="lvis")
    prefix = {"bbox": "", "segm": "mask_"}[kind]
    keys = {name: key.replace("/", f"/{prefix}") for name, key in FIGURES.items()}
    return {name: figures[key] for name, key in keys.items()}


def with_lvis_api(folder: Path, kind: str) -> dict[str, float]:
    """The way of lvis-api's readme."""
    setattr(np, "float", float)  # noqa: B010 - an alias that numpy no longer has, and lvis-api uses
    from lvis import LVIS, LVISEval, LVISResults

    truth = LVIS(str(folder / "truth.json"))
    evaluation = LVISEval(truth, LVISResults(truth, str(folder / "found.json")), kind)
    evaluation.run()
    return {name: 100 * evaluation.get_results()[name] for name in FIGURES}


def measure(evaluate: Callable, *args) -> tuple[float, float, dict[str, float]]:
    """Seconds, peak resident memory in MB, and figures of ``evaluate`` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_timed, evaluate, *args).result()


def _timed(evaluate: Callable, *args) -> tuple[float, float, dict[str, float]]:
    import contextlib
    import io

    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        figures = evaluate(*args)
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, figures


def main() -> None:
    """Print a json line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500, help="images (default 500)")
    parser.add_argument("--detections", type=int, default=300, help="detections an image (default 300)")
    parser.add_argument("--kind", choices=("bbox", "segm"), default="bbox", help="boxes or masks")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each, in turn; the median counts (default 1)")
    args = parser.parse_args()
    ways = {"ours": with_ovd, "lvis-api": with_lvis_api}
    runs: dict[str, list] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        maker = multiprocessing.get_context("spawn").Process(
            target=generate, args=(folder, args.images, args.detections, args.kind == "segm"))
        maker.start()
        maker.join()
        for _ in range(args.rounds):
            for way, evaluate in ways.items():
                runs[way].append(measure(evaluate, folder, args.kind))
    ours, theirs = runs["ours"][0][2], runs["lvis-api"][0][2]
    for name in FIGURES:
        if not (math.isclose(ours[name], theirs[name], rel_tol=0, abs_tol=1e-9) and 0 < ours[name] < 100):
            raise SystemExit(f"{name} is {ours[name]!r}, of lvis-api {theirs[name]!r}")
    what = f"LVIS evaluation, {args.kind}, {args.images:,} images x {args.detections}, from files to {len(FIGURES)} APs"
    for index, (quantity, unit) in enumerate((("time", "s"), ("peak memory", "MB"))):
        value, peer_value = (statistics.median(run[index] for run in runs[way]) for way in ways)
        print_figure(f"{what}: {quantity}", value, unit, "lvis-api", peer_value)


if __name__ == "__main__":
    main()
