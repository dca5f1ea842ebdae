"""What the page is tested with: a small region store of rendered scenes, a run with its detections, and the server."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
STARTS = 240  # seconds that a start may take on a busy machine
CONFIG = """
data_root = '{data}'
split = 'annotations/split.json'
val_ann = 'annotations/instances_val.json'
model = dict(type='ovd.models.ViLD', roi_head=dict(), rpn_head=dict())
train_cfg = dict(max_iters=20)
train_dataloader = dict(batch_size=2)
test_dataloader = dict(dataset=dict(data_prefix=dict(img='val2017')))
test_evaluator = dict(ann_file='annotations/instances_val.json', split='annotations/split.json', data_root='{data}')
"""


def write_scenes(root: Path) -> Path:
    """The embedded benchmark's layout, 12 + 6 scenes, with a region store of the true boxes of the training scenes."""
    from ovd.clip.crops import CropRecipe
    from ovd.clip.regions import RegionEncoder
    from ovd.clip.towers import load_clip
    from ovd.data.annotations import load_annotations
    from ovd.data.rgb import load_rgb
    from ovd.data.shapes.dataset import write_dataset
    from ovd.stores.shards import Regions, RegionStore

    write_dataset(root, {"train": 12, "val": 6}, 3, 192)
    annotations = load_annotations(root / "annotations" / "instances_train.json")
    (root / "annotations" / "instances_train_shapes.json").write_bytes(
        (root / "annotations" / "instances_train.json").read_bytes())  # the name that the dataset's config has
    clip, recipe = load_clip("shapes"), CropRecipe()
    encoder = RegionEncoder(clip, recipe)
    writer = RegionStore.create(root / "regions" / "train", "regions", [i.id for i in annotations.images], 20,
                                clip.embed_dim)
    contents = {}
    for image in annotations.images:
        boxes = np.array([a.bbox for a in annotations.by_image()[image.id]], np.float32)
        boxes[:, 2:] += boxes[:, :2]
        rows = encoder(load_rgb(root / "train2017" / image.file_name), boxes)
        contents[image.id] = Regions(boxes, np.ones(len(boxes), np.float32), rows)
    writer.write(0, contents)
    writer.finish("embed-regions", {"recipe": recipe.config(), "precision": "fp32"}, {"clip": clip.fingerprint})
    return root


def write_run(folder: Path, data: Path) -> Path:
    """A tested run that finds everything but what is in the first image."""
    from ovd.data.annotations import load_annotations

    inside = folder / "20300101_000000" / "vis_data"
    inside.mkdir(parents=True)
    (inside / "config.py").write_text(CONFIG.format(data=data))
    found = load_annotations(data / "annotations" / "instances_val.json").annotations
    first = min(a.image_id for a in found)
    (folder / "detections.json").write_text(json.dumps(
        [{"image_id": a.image_id, "category_id": a.category_id, "bbox": a.bbox, "score": 0.9, "segmentation": None}
         for a in found if a.image_id != first]))
    (folder / "metrics.json").write_text(json.dumps(
        {f"{group}/{figure}": 87.5 for group in ("base", "novel", "all") for figure in ("ap", "ap50")}))
    return folder


def common_class(data: Path) -> tuple[str, int]:
    """The class that the store holds most often, and how often."""
    content = json.loads((data / "annotations" / "instances_train.json").read_text())
    names = {one["id"]: one["name"] for one in content["categories"]}
    counts: dict[str, int] = {}
    for one in content["annotations"]:
        counts[names[one["category_id"]]] = counts.get(names[one["category_id"]], 0) + 1
    return max(counts.items(), key=lambda item: item[1])


@dataclass
class Server:
    """``ovd serve`` in a process of its own."""

    url: str
    process: subprocess.Popen
    lines: list[str]

    def stop(self, signalled: int = signal.SIGINT) -> int:
        """Stop it as Ctrl-C does; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signalled)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()


def start(*options: object, port: int | None = None) -> Server:
    """Start the server, and wait until it says where it is."""
    if port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "serve", "--port", str(port), *map(str, options)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines: list[str] = []
    ready = threading.Event()
    place: list[str] = []

    def read() -> None:
        for line in process.stdout:
            lines.append(line.rstrip())
            if found := re.search(r"open (http://\S+) ", line):
                place.append(found[1])
                ready.set()
        ready.set()

    threading.Thread(target=read, daemon=True).start()
    began = time.monotonic()
    ready.wait(STARTS)
    if not place:
        process.kill()
        raise AssertionError(f"no server after {time.monotonic() - began:.0f} s:\n" + "\n".join(lines))
    return Server(place[0], process, lines)
