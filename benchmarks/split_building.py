"""Split building: ``pipelines.splits`` against json load, filter and dump, on an LVIS-like file of a chosen size.

All read the file, and write the base-only and the generalised file of 866_337, without waiting for the disk (fsync).
Each runs in a process of its own, which gives the peak memory (of ours, with that of the processes that it starts for
a large file). The results are compared before figures are printed. Peers: ``json.dump`` to a file, which encodes in
Python, as everybody writes it; and ``json.dumps``, which encodes in C, then one write.

LVIS's size takes 7 GB of disk space, 8 GB of memory and 5 minutes a round:

    python benchmarks/split_building.py --megabytes 1060
"""

import argparse
import json
import multiprocessing
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import msgspec
from figures import print_figure

from ovd.data.annotation_table import read_table
from ovd.vocabulary.classes import LVIS_V1
from ovd.vocabulary.splits import get_split
from pipelines.splits import apply_split, reading_processes

SPLIT = get_split("866_337")


def generate(path: Path, megabytes: float, seed: int = 0) -> None:
    """Write an LVIS-like file of about that size: 13 objects an image, a polygon of 2 to 80 points each."""
    rng = random.Random(seed)
    size, images, annotations = 0, [], []
    while size < megabytes * 1e6:
        image_id = len(images) + 1
        images.append({
            "date_captured": "2013-11-14 16:28:13", "neg_category_ids": rng.sample(range(1, 1204), 6), "id": image_id,
            "license": 4, "height": 480, "width": 640, "flickr_url": "http://farm7.staticflickr.com/6116/x_z.jpg",
            "coco_url": f"http://images.cocodataset.org/train2017/{image_id:012d}.jpg",
            "not_exhaustive_category_ids": rng.sample(range(1, 1204), 1),
        })  # fmt: skip
        for _ in range(13):
            points = [round(rng.uniform(0, 480), 2) for _ in range(2 * min(80, 2 + int(rng.expovariate(1 / 35))))]
            annotations.append({
                "area": round(rng.uniform(1, 1e4), 2), "id": len(annotations) + 1, "segmentation": [points],
                "image_id": image_id, "bbox": [round(rng.uniform(1, 300), 2) for _ in range(4)],
                "category_id": rng.randint(1, 1203),
            })  # fmt: skip
            size += 130 + 8 * len(points)
    categories = [
        {"frequency": c.frequency, "id": c.id, "synset": c.synset, "name": c.name, "synonyms": c.synonyms, "def": "x"}
        for c in LVIS_V1
    ]
    file = {"info": {}, "annotations": annotations, "images": images, "licenses": [], "categories": categories}
    path.write_text(json.dumps(file))


def with_ovd(source: Path, base: Path, everything: Path) -> None:
    """The project's way."""
    loaded = read_table(source, processes=reading_processes(source))
    apply_split(loaded, SPLIT, novel=False).write(base)
    apply_split(loaded, SPLIT, novel=True).write(everything)


def with_json(source: Path, base: Path, everything: Path) -> None:
    """The plain way: ``json.dump``."""
    _with_json(source, base, everything, json.dump)


def with_json_in_c(source: Path, base: Path, everything: Path) -> None:
    """The plain way with a text in memory, which json's C code makes."""
    _with_json(source, base, everything, lambda content, file, **options: file.write(json.dumps(content, **options)))


def _with_json(source: Path, base: Path, everything: Path, dump: Callable) -> None:
    with open(source) as file:
        data = json.load(file)
    labels = {category["id"]: SPLIT.label(category["name"]) for category in data["categories"]}
    for category in data["categories"]:
        category["id"] = labels[category["id"]]
    data["categories"].sort(key=lambda category: category["id"])
    for image in data["images"]:
        for field in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[field] = [labels[i] for i in image[field]]
    for annotation in data["annotations"]:
        annotation["category_id"] = labels[annotation["category_id"]]
    in_base = [annotation for annotation in data["annotations"] if annotation["category_id"] < SPLIT.num_base]
    for path, annotations in ((base, in_base), (everything, data["annotations"])):
        content = {"images": data["images"], "annotations": annotations, "categories": data["categories"]}
        with open(path, "w") as file:
            dump(content, file, separators=(",", ":"))


def equal(first: Path, second: Path) -> bool:
    """Whether two annotation files hold the same; record by record, to fit into memory."""
    decoder = msgspec.json.Decoder(dict[str, list[msgspec.Raw]])
    mine, theirs = decoder.decode(first.read_bytes()), decoder.decode(second.read_bytes())
    return mine.keys() == theirs.keys() and all(
        len(mine[key]) == len(theirs[key]) and all(map(_equal_records, mine[key], theirs[key])) for key in mine
    )


def _equal_records(first: msgspec.Raw, second: msgspec.Raw) -> bool:
    return msgspec.json.decode(first) == msgspec.json.decode(second)


def measure(build: Callable, *paths: Path) -> tuple[float, float]:
    """Seconds, and peak resident memory in MB, of ``build`` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_timed, build, *paths).result()


def _timed(build: Callable, *paths: Path) -> tuple[float, float]:
    start = time.perf_counter()
    build(*paths)
    seconds = time.perf_counter() - start
    for child in multiprocessing.active_children():
        child.join()
    own, largest_child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return seconds, (own + (reading_processes(paths[0]) - 1) * largest_child) / 1e3


def main() -> None:
    """Print a json line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=100, help="size of the file (default 100)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turn; the median counts (default 3)")
    args = parser.parse_args()
    ways = {"ours": with_ovd, "json load + filter + json.dump": with_json,
            "json load + filter + json.dumps + write": with_json_in_c}
    found: dict[str, list] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source.json")
        maker = multiprocessing.get_context("spawn").Process(target=generate, args=(source, args.megabytes))
        maker.start()
        maker.join()
        files = {name: (Path(folder, f"{i}_base.json"), Path(folder, f"{i}_all.json")) for i, name in enumerate(ways)}
        for _ in range(args.rounds):
            for name, build in ways.items():
                found[name].append(measure(build, source, *files[name]))
        for name in list(ways)[1:]:
            for mine, plain in zip(files["ours"], files[name]):
                if not equal(mine, plain):
                    raise SystemExit(f"{mine.name}, {plain.name}: the two ways differ")
        size = source.stat().st_size / 1e6
    medians = {name: [statistics.median(column) for column in zip(*runs)] for name, runs in found.items()}
    for peer in list(ways)[1:]:
        for quantity, unit, value, peer_value in zip(("time", "peak memory"), ("s", "MB"), medians["ours"],
                                                     medians[peer]):
            print_figure(f"split building, {size:.0f} MB, base-only + all: {quantity}", value, unit, peer, peer_value)


if __name__ == "__main__":
    main()
