"""Zero-shot accuracy of a CLIP on ground-truth crops: the ceiling of a detector that learns from it."""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ovd.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from ovd.clip.regions import RegionEncoder
    from ovd.vocabulary.splits import Split

STAGE = "zero-shot"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-root", type=Path, default=Path("data/shapes"), help="(%(default)s)")
    parser.add_argument("--annotations", default="annotations/instances_val.json",
                        help="COCO or LVIS json below the data root (%(default)s)")
    parser.add_argument("--images", default="val2017", help="image folder below the data root (%(default)s)")
    parser.add_argument("--split", default="annotations/split.json", help="name or json of the split (%(default)s)")
    parser.add_argument("--class-head", type=Path, required=True, help="class embeddings of the split's classes")
    parser.add_argument("--pretrained", default="shapes", help="the CLIP, as for the other stages (%(default)s)")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 1.5], help="crop scales (1.0 1.5)")
    parser.add_argument("--out", type=Path, required=True, help="json file to write")
    parser.add_argument("--device", default="cpu", help="(%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="compute again")


def run(args: argparse.Namespace) -> None:
    """Entry point of ``tools/zero_shot.py`` and ``ovd zero-shot``."""
    import torch

    from ovd.clip.crops import CropRecipe
    from ovd.clip.regions import RegionEncoder
    from ovd.clip.towers import load_clip
    from ovd.stores.class_registry import load_classes
    from ovd.stores.manifest import Manifest, current_or_remove, fingerprint, publish
    from ovd.vocabulary.splits import get_split

    annotation_file = args.data_root / args.annotations
    clip = load_clip(args.pretrained, device=args.device)
    head = load_classes(args.class_head)
    if head.stats.get("clip") not in (None, clip.fingerprint):
        raise UserError(f"{args.class_head}: was made with another CLIP than {args.pretrained}; rebuild it with "
                        f"ovd class-embeddings --pretrained {args.pretrained}")
    recipe = CropRecipe("clip", tuple(args.scales))
    config = {"pretrained": args.pretrained, "split": args.split, "recipe": recipe.config()}
    inputs = {"annotations": fingerprint(annotation_file), "class_head": fingerprint(args.class_head),
              "clip": clip.fingerprint}
    if current_or_remove(args.out, STAGE, config, inputs, args.overwrite):
        print(f"{args.out}: up to date")
        return
    split = get_split(args.split, args.data_root)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    started = time.time()
    with publish(args.out, Manifest("zero_shot", STAGE, config, inputs)) as (temporary, manifest):
        encoder = RegionEncoder(clip, recipe)
        labels, embeddings = _embed_ground_truth(annotation_file, args.data_root / args.images, split, encoder)
        predicted = head.select(split.classes).logits(embeddings.float()).argmax(1)
        result = accuracy_by_group(predicted, labels, split.all_groups())
        manifest.counts = {"objects": len(labels)}
        manifest.wall_seconds = round(time.time() - started, 3)
        temporary.write_text(json.dumps(result, indent=1) + "\n")
    for group, value in result.items():
        count = torch.isin(labels, torch.tensor(split.all_groups()[group])).sum()
        print(f"{group:>18}: {value:5.1f} % of {count} objects")


def accuracy_by_group(predicted: "Tensor", labels: "Tensor", groups: dict[str, list[int]]) -> dict[str, float]:
    """Per cent of right arg-max classes among the objects of each group; ``predicted``, ``labels`` long ``[N]``.

    A group without objects is left out.
    """
    import torch

    result = {}
    for group, members in groups.items():
        chosen = torch.isin(labels, torch.tensor(members))
        if chosen.any():
            result[group] = round(100 * (predicted[chosen] == labels[chosen]).float().mean().item(), 2)
    return result


def _embed_ground_truth(annotation_file: Path, images: Path, split: "Split",
                        encoder: "RegionEncoder") -> "tuple[Tensor, Tensor]":
    """Labels long ``[N]`` and unit embeddings ``[N, D]`` of all objects of the split's classes, crowds left out."""
    import numpy as np
    import torch
    from PIL import Image
    from tqdm import tqdm

    from ovd.data.annotations import image_path, load_annotations
    from ovd.data.boxes import corners

    annotations = load_annotations(annotation_file)
    names = {category.id: category.name for category in annotations.categories}
    by_image = annotations.by_image()
    labels: list[int] = []

    def crops() -> "Iterator[Tensor]":
        for image in tqdm(annotations.images, desc="ground-truth crops", unit="image"):
            found = [a for a in by_image.get(image.id, []) if names[a.category_id] in split and not a.iscrowd]
            if not found:
                continue
            labels.extend(split.label(names[a.category_id]) for a in found)
            with Image.open(image_path(image, images)) as picture:
                yield encoder.crop(picture.convert("RGB"), corners([a.bbox for a in found]))

    embedded = encoder.encode(crops())
    if not embedded:
        raise UserError(f"{annotation_file}: has no object of the classes of split {split.name}")
    return torch.tensor(labels), torch.from_numpy(np.concatenate(embedded))
