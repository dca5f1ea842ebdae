"""The training pairs of a data set, collected into a file; an image's boxes are in memory at a time."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ovd.clip.prompts.batches import PairReader
from ovd.clip.prompts.pairs import MOST_CLASSES, PairFile, append, proposal_pairs, truth_pairs
from ovd.data.annotations import load_annotations
from ovd.data.boxes import corners
from ovd.errors import UserError
from ovd.stores.manifest import Manifest, current_or_remove, fingerprint_json, publish
from ovd.stores.shards import RegionStore
from ovd.vocabulary.splits import Split
from pipelines.prompt_learning.heads import STAGE


def collect_pairs(path: Path, stores: Mapping[str, Path], ann_file: Path, split: Split, inputs: dict[str, str],
                  overwrite: bool) -> PairReader:
    """The training pairs, collected into ``path`` unless they are there."""
    opened = {name: RegionStore(store, mapped_shards=1) for name, store in stores.items()}
    config = {"base": fingerprint_json(list(split.base))}
    if not current_or_remove(path, STAGE, config, inputs, overwrite):
        with publish(path, Manifest("prompt_pairs", STAGE, config, inputs)) as (temporary, manifest):
            manifest.counts = _write_pairs(temporary, opened["regions"], opened.get("ground_truth"), ann_file, split)
    counts = Manifest.read(path).counts
    print(f"{path}: {counts['foreground']:,} foreground and {counts['background']:,} background pairs of proposals, "
          f"{counts['ground_truth']:,} of {counts['objects']:,} base objects with an embedding")
    return PairReader(PairFile(path), opened["regions"], opened.get("ground_truth"))


def _write_pairs(path: Path, regions: RegionStore, truth: RegionStore | None, ann_file: Path,
                 split: Split) -> dict[str, int]:
    """Write the records of all images to ``path``; returns how many of each kind."""
    if len(split.base) > MOST_CLASSES:
        raise UserError(f"split {split.name}: {len(split.base)} base classes, at most {MOST_CLASSES} can be learned")
    annotations = load_annotations(ann_file)
    labels = {c.id: split.label(c.name) for c in annotations.categories if c.name in split}
    labels = {category: label for category, label in labels.items() if label < split.num_base}  # no novel class enters
    by_image = annotations.by_image()
    regions.require_images(by_image)
    if truth:
        truth.require_images(by_image)
    counts = dict.fromkeys(("objects", "ground_truth", "foreground", "background"), 0)
    with open(path, "wb") as file:
        for place, image_id in enumerate(tqdm(regions.image_ids.tolist(), desc="pairs", unit=" images")):
            objects = [a for a in by_image.get(image_id, ()) if a.category_id in labels and not a.iscrowd]
            if not objects:
                continue
            boxes_G4 = corners([a.bbox for a in objects])
            labels_G = np.array([labels[a.category_id] for a in objects], np.int64)
            pairs = [proposal_pairs(regions.view(image_id).boxes, boxes_G4, labels_G)]
            foreground = int((pairs[0]["label"] >= 0).sum())
            if truth:
                pairs.append(truth_pairs(truth.view(image_id).boxes, boxes_G4, labels_G))
                counts["ground_truth"] += len(pairs[1])
            for found in pairs:
                found["image"] = place
                append(file, found)
            counts["objects"] += len(objects)
            counts["foreground"] += foreground
            counts["background"] += len(pairs[0]) - foreground
    if not counts["objects"]:
        raise UserError(f"{ann_file}: has no object of a base class of split {split.name}")
    return counts
