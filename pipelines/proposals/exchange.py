"""Stores from and to mmdet's proposal files, whose entries have no ids: their order is always said."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovd.engine.config import load_config
from ovd.evaluation.recall import Recall
from ovd.stores.manifest import current_or_remove, fingerprint, require
from ovd.stores.proposals_pkl import load_proposals, save_proposals
from ovd.stores.shards import RegionStore
from pipelines.proposals.extraction import STAGE, report
from pipelines.proposals.inputs import Settings, Subset
from pipelines.proposals.recall import report_recall


def import_proposals(config: str | Path, subset_name: str, file: str | Path, order: str, *,
                     options: Sequence[str] | Mapping[str, Any] = (), data_root: str | Path | None = None,
                     out: str | Path | None = None, max_per_image: int | None = None, overwrite: bool = False,
                     recall_images: int = 5000) -> dict[str, Recall]:
    """Fill a store from an mmdet pickle.

    Args:
        order: which image an entry belongs to: ``"json"`` (the order of the annotation file) or ``"sorted"`` (by id).
        Others: as the options of the command line.

    Returns:
        the recall of each group of classes.

    Raises:
        UserError: not such a file, another number of images, boxes that are not boxes or lie outside their image.
    """
    start = time.perf_counter()
    cfg = load_config(config, options, data_root)
    settings = Settings.read(cfg, max_per_image=max_per_image)
    subset = Subset.read(cfg, subset_name, out)
    shard_size = settings.shard_size(len(subset.photos))
    record = {"config": {"order": order, "max_per_image": settings.max_per_image, "images_per_shard": shard_size},
              "inputs": {"annotations": subset.fingerprint, "pkl": fingerprint(file)}}
    if current_or_remove(subset.store, STAGE, **record, overwrite=overwrite):
        print(f"{subset.store} is up to date")
    else:
        found = load_proposals(file, subset.annotations.images, order, max_per_image=settings.max_per_image)
        writer = RegionStore.create(subset.store, "proposals", subset.photos, shard_size, overwrite=overwrite,
                                    config=record)
        with writer.exclusive():
            missing = writer.missing()
            for shard in missing:
                writer.write(shard, {image_id: found[image_id] for image_id in writer.image_ids(shard)})
            seconds = time.perf_counter() - start
            manifest = writer.finish(STAGE, **record, wall_seconds=round(seconds, 1), flags={"trained_on": None})
        report(subset, manifest, len(missing), seconds)
    return report_recall(subset, recall_images) if recall_images else {}


def export_proposals(config: str | Path, subset_name: str, file: str | Path, order: str, *,
                     options: Sequence[str] | Mapping[str, Any] = (), data_root: str | Path | None = None,
                     out: str | Path | None = None) -> None:
    """Write a store as an mmdet pickle, with an entry per image in ``order``."""
    subset = Subset.read(load_config(config, options, data_root), subset_name, out)
    require(subset.store, kind="proposals")
    store = RegionStore(subset.store)
    store.verify()  # the file has no checksums
    save_proposals(file, store, subset.annotations.images, order)
    which = "in the order of the annotation file" if order == "json" else "by ascending image id"
    print(f"{file}: proposals of {len(subset.photos):,} images, {which} (to be imported with --order {order})")
