"""How many of the boxes that `ovd find-support` suggests are of the class, on classes that training never saw.

For each novel class of the embedded benchmark: k suggestions from the proposals of the training images, where novel
objects are but are not annotated, from one example box (the largest object of the class). A suggestion is right when it
overlaps an object of the class by an IoU of at least 0.5. The peer is the class's name instead of the box.

    python benchmarks/support_retrieval.py [--k 10] [--data-root data/shapes]
"""

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np
from figures import print_figure

from ovd.data.boxes import corners
from ovd.evaluation.recall import pairwise_iou
from pipelines.support import find_support

CONFIG = "configs/shapes/vild.py"


def right(found: dict, objects: list[dict]) -> list[bool]:
    """Whether each suggestion overlaps one of the objects."""
    return [any(a["image_id"] == record["image_id"] and
                pairwise_iou(corners([a["bbox"]]), corners([record["bbox"]]))[0, 0] >= 0.5 for a in objects)
            for record in found["annotations"] if record["source"] == "suggestion"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--k", type=int, default=10, help="suggestions for each class (%(default)s)")
    parser.add_argument("--data-root", type=Path, default=Path("data/shapes"), help="(%(default)s)")
    args = parser.parse_args()
    contents = json.loads((args.data_root / "annotations/instances_train.json").read_text())
    novel = json.loads((args.data_root / "annotations/split.json").read_text())["novel"]
    ids = {category["name"]: category["id"] for category in contents["categories"]}
    shares: dict[str, list[float]] = {"example": [], "name": []}
    with tempfile.TemporaryDirectory() as folder:
        for name in novel:
            objects = [a for a in contents["annotations"] if a["category_id"] == ids[name]]
            largest = max(objects, key=lambda a: (a["area"], -a["id"]))
            example = largest["image_id"], tuple(corners([largest["bbox"]])[0].tolist())
            for kind, query in (("example", {"examples": [example]}), ("name", {"text": name})):
                with contextlib.redirect_stdout(io.StringIO()):
                    out = find_support(CONFIG, name=name, **query, k=args.k, data_root=args.data_root,
                                       out=Path(folder, f"{kind}.json"), overwrite=True)
                shares[kind].append(sum(right(json.loads(out.read_text()), objects)) / args.k)
    print_figure(f"support of {len(novel)} novel classes from one example box, right of {args.k}",
                 float(np.mean(shares["example"])), "share", "the name", float(np.mean(shares["name"])),
                 higher_is_better=True)


if __name__ == "__main__":
    main()
