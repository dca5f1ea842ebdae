"""A store of the annotations' own boxes in place of a network's: what ground-truth embeddings are made from."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ovd.engine.config import load_config
from ovd.errors import UserError
from ovd.stores.manifest import Manifest, current_or_remove
from ovd.stores.shards import Regions, RegionStore
from pipelines.proposals.extraction import STAGE
from pipelines.proposals.inputs import Settings, Subset


def annotated_proposals(config: str | Path, subset_name: str, *, options: Sequence[str] | Mapping[str, Any] = (),
                        data_root: str | Path | None = None, out: str | Path, overwrite: bool = False) -> Manifest:
    """Fill the store ``out`` with the boxes of a subset's annotations, in the annotation file's order, with score 1.

    Crowds and the classes that the config's split excludes are left out. An image without annotations has no boxes.

    Args:
        Others: as the options of the command line.

    Raises:
        UserError: wrong or missing input, an existing store made otherwise.
    """
    start = time.perf_counter()
    cfg = load_config(config, options, data_root)
    subset = Subset.read(cfg, subset_name, out)
    shard_size = Settings.read(cfg).shard_size(len(subset.photos))
    classes = subset.split.classes if subset.split else [category.name for category in subset.annotations.categories]
    record = {"config": {"from_annotations": True, "classes": sorted(classes), "images_per_shard": shard_size},
              "inputs": {"annotations": subset.fingerprint}}
    if current_or_remove(subset.store, STAGE, **record, overwrite=overwrite):
        print(f"{subset.store} is up to date")
        return Manifest.read(subset.store)
    objects = subset.objects()
    nothing = np.zeros((0, 4), np.float32)
    if not any(len(objects(image_id, nothing).labels_G) for image_id in subset.photos):
        raise UserError(f"{subset.ann_file}: has no object of the split's classes; are they the right ones?")
    writer = RegionStore.create(subset.store, "proposals", subset.photos, shard_size, overwrite=overwrite,
                                config=record)
    with writer.exclusive():
        for shard in writer.missing():
            boxes = {image_id: objects(image_id, nothing).objects_G4 for image_id in writer.image_ids(shard)}
            writer.write(shard, {i: Regions(boxes_G4, np.ones(len(boxes_G4))) for i, boxes_G4 in boxes.items()})
        manifest = writer.finish(STAGE, **record, wall_seconds=round(time.perf_counter() - start, 1))
    print(f"{subset.store}: the {manifest.counts['regions']:,} annotated boxes of {manifest.counts['images']:,} images")
    return manifest
