"""How many planted faults the audit of annotations finds: a copy of the embedded benchmark, spoilt with a seed.

Planted into the training images and all their objects: wrong labels (--wrong, a share of the objects, to any other
class, or with --look-alikes to one of the three whose names are nearest for CLIP), images again under other ids
(--copies, brighter and compressed harder), boxes drawn twice (--doubled, a pixel beside the first; half of them as
another class), objects left out (--left-out). Then the stages run as a user runs them, and each list of the report is
compared with what was planted: the share that is right among its first n entries, n the number planted. The peer of
wrong labels is the audit without CLIP's text classes; that of the others is what chance gives among as many images or
objects.

Reads data/shapes (`ovd shapes`); the region store of --proposals, if any, is to be of the same CLIP (`ovd run
configs/recipes/demo.py` makes one).

    python benchmarks/audit_faults.py [--look-alikes] [--seed 0] [--proposals data/shapes/regions/train]
"""

import argparse
import copy
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from figures import print_figure
from PIL import Image, ImageEnhance

from ovd.data.boxes import corners
from ovd.evaluation.recall import pairwise_iou
from ovd.stores.class_heads import ClassHead
from ovd.vocabulary.prompts import get_style
from pipelines.audit import audit_annotations
from pipelines.class_embeddings import embed_classes
from pipelines.proposals.annotated import annotated_proposals
from pipelines.region_embeddings import embed_regions

SOURCE = Path("data/shapes")
ANNOTATIONS = "annotations/instances_train.json"
CONFIG = "configs/shapes/vild.py"
HEAD = "class_heads/shapes.safetensors"


def plant(root: Path, args: argparse.Namespace) -> dict:
    """A spoilt copy of the benchmark in ``root``; returns what was planted."""
    rng = np.random.default_rng(args.seed)
    contents = json.loads((SOURCE / ANNOTATIONS).read_text())
    (root / "annotations").mkdir(parents=True)
    (root / "train2017").mkdir()
    shutil.copy(SOURCE / "annotations/split.json", root / "annotations")
    for image in contents["images"]:
        (root / "train2017" / image["file_name"]).symlink_to((SOURCE / "train2017" / image["file_name"]).resolve())
    objects = contents["annotations"]
    left_out = [objects[i] for i in rng.choice(len(objects), args.left_out, replace=False)]
    gone = {a["id"] for a in left_out}
    objects = contents["annotations"] = [a for a in objects if a["id"] not in gone]
    names = [c["name"] for c in contents["categories"]]
    embed_classes(names, get_style("vild"), root / HEAD, pretrained="shapes")
    truth = {a["id"]: a["category_id"] for a in objects}
    others = _other_classes(contents["categories"], root / HEAD, args.look_alikes)
    for index in rng.choice(len(objects), round(args.wrong * len(objects)), replace=False):
        objects[index]["category_id"] = int(rng.choice(others[objects[index]["category_id"]]))
    next_id = 1 + max(truth)
    large = [a for a in objects if min(a["bbox"][2:]) >= 44]
    doubled = []
    for number, index in enumerate(rng.choice(len(large), args.doubled, replace=False)):
        again = copy.deepcopy(large[index]) | {"id": next_id}
        again["bbox"][0] += 1 if again["bbox"][0] + again["bbox"][2] < 192 else -1
        if number % 2:
            again["category_id"] = int(rng.choice(others[truth[large[index]["id"]]]))
        truth[next_id] = truth[large[index]["id"]]
        doubled.append((large[index]["id"], next_id))
        objects.append(again)
        next_id += 1
    copies = []
    for number, index in enumerate(rng.choice(len(contents["images"]), args.copies, replace=False)):
        image = contents["images"][index]
        new = image | {"id": 90_000_000 + number, "file_name": f"copy_{number:03d}.jpg"}
        with Image.open(root / "train2017" / image["file_name"]) as picture:
            brighter = ImageEnhance.Brightness(picture.convert("RGB")).enhance(1.1)
        brighter.save(root / "train2017" / new["file_name"], quality=60)
        contents["images"].append(new)
        copies.append((image["id"], new["id"]))
        for a in [a for a in objects if a["image_id"] == image["id"]]:
            objects.append(a | {"id": next_id, "image_id": new["id"]})
            truth[next_id] = truth[a["id"]]
            next_id += 1
    (root / ANNOTATIONS).write_text(json.dumps(contents))
    return {"wrong": {a["id"] for a in objects if a["category_id"] != truth[a["id"]]}, "truth": truth,
            "copies": {frozenset(pair) for pair in copies}, "doubled": {frozenset(pair) for pair in doubled},
            "left_out": left_out, "images": len(contents["images"]), "objects": len(objects)}


def _other_classes(categories: list[dict], head: Path, look_alikes: bool) -> dict[int, list[int]]:
    """Per class those that a wrong label may be: all others, or the three whose names are nearest for CLIP."""
    ids = [c["id"] for c in categories]
    if not look_alikes:
        return {i: [j for j in ids if j != i] for i in ids}
    rows = ClassHead.load(head).select(c["name"] for c in categories).weights[:, 0].numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    nearest = np.argsort(-(rows @ rows.T), axis=1)[:, 1:4]
    return {ids[i]: [ids[j] for j in nearest[i]] for i in range(len(ids))}


def run_audit(root: Path, proposals: str | None, no_text: bool = False) -> dict:
    """The stages, as their commands run them; returns the report."""
    options = {"train_ann": ANNOTATIONS}
    boxes, store = root / "proposals/annotated", root / "regions/annotated_train"
    annotated_proposals(CONFIG, "train", options=options, data_root=root, out=boxes)
    embed_regions(CONFIG, options=options, data_root=root, proposals=boxes, out=store)
    report = audit_annotations(CONFIG, options=options, data_root=root, proposals=proposals, no_text=no_text,
                               out=root / f"audit{'_without_text' * no_text}")
    return json.loads(report.read_text())


def first_right(found: list, planted: int) -> float:
    """Share of right ones among the first ``planted`` of a list of truth values; what is absent is wrong."""
    return sum(found[:planted]) / planted


def wrong_labels(report: dict, planted: dict) -> list[bool]:
    """Whether each suspicious label is a planted one."""
    return [entry["annotation_id"] in planted["wrong"] for entry in report["label_errors"]]


def pairs_found(groups: list[list[int]], planted: set[frozenset]) -> list[bool]:
    """Whether each group of a list is a planted pair."""
    return [frozenset(group) in planted for group in groups]


def left_out_found(report: dict, left_out: list[dict]) -> list[bool]:
    """Whether each entry overlaps an object that was left out, each counted once."""
    waiting, found = list(left_out), []
    for entry in report["unannotated"]:
        here = [a for a in waiting if a["image_id"] == entry["image_id"]
                and pairwise_iou(corners([entry["box"]]), corners([a["bbox"]]))[0, 0] >= 0.5]
        found.append(bool(here))
        waiting = [a for a in waiting if a not in here]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wrong", type=float, default=0.05, help="share of wrong labels (%(default)s)")
    parser.add_argument("--look-alikes", action="store_true", help="wrong labels are of classes that look alike")
    parser.add_argument("--copies", type=int, default=10, help="images there twice (%(default)s)")
    parser.add_argument("--doubled", type=int, default=20, help="boxes drawn twice (%(default)s)")
    parser.add_argument("--left-out", type=int, default=50, help="objects without annotation (%(default)s)")
    parser.add_argument("--proposals", metavar="DIR", help="region store of proposals of the training images")
    parser.add_argument("--seed", type=int, default=0, help="of what is planted (%(default)s)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep the spoilt copy in this new folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = args.work or Path(temporary, "spoilt")
        planted = plant(root, args)
        report = run_audit(root, args.proposals)
        alone = run_audit(root, None, no_text=True)
    kind = "wrong labels of look-alikes" if args.look_alikes else "wrong labels"
    wrong = len(planted["wrong"])
    print_figure(f"{kind}, right among the first {wrong} of {planted['objects']} objects",
                 first_right(wrong_labels(report, planted), wrong), "share", "neighbours alone",
                 first_right(wrong_labels(alone, planted), wrong), higher_is_better=True)
    counted = [entry for entry in report["label_errors"] if entry["counted_as_wrong"]]
    right = sum(entry["annotation_id"] in planted["wrong"] for entry in counted)
    print_figure(f"{kind}, right among the {len(counted)} that are counted as wrong", right / len(counted), "share",
                 "chance", wrong / planted["objects"], higher_is_better=True)
    print_figure(f"{kind}, counted as wrong of the {wrong}", right / wrong, "share", "chance",
                 len(counted) / planted["objects"], higher_is_better=True)
    copies = pairs_found([group["image_ids"] for group in report["duplicate_images"]], planted["copies"])
    print_figure(f"copied images of {planted['images']}, right among the first {args.copies} ({len(copies)} found)",
                 first_right(copies, args.copies), "share", "chance", args.copies / planted["images"],
                 higher_is_better=True)
    doubled = pairs_found([entry["annotation_ids"] for entry in report["double_boxes"]], planted["doubled"])
    print_figure(f"boxes drawn twice, right among the first {args.doubled} ({len(doubled)} found)",
                 first_right(doubled, args.doubled), "share", "chance", args.doubled / planted["objects"],
                 higher_is_better=True)
    if args.proposals:
        missing = left_out_found(report, planted["left_out"])
        said = f"right among the first {args.left_out} ({len(missing)} found, {sum(missing)} right)"
        print_figure(f"objects left out, {said}", first_right(missing, args.left_out), "share", "chance",
                     args.left_out / (args.left_out + planted["objects"]), higher_is_better=True)


if __name__ == "__main__":
    main()
