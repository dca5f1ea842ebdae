"""What a store is, for a person or a script: read from its plan, its manifest and the offsets of its shards."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ovd.errors import UserError
from ovd.stores.layout import Shard, shard_name
from ovd.stores.manifest import Manifest
from ovd.stores.shards import read_plan, row_type
from ovd.stores.verification import size_of


def summarise(path: str | os.PathLike) -> dict[str, Any]:
    """A store, finished or not, as a JSON-ready dict; of an unfinished one what is there so far.

    Raises:
        UserError: Not a store, a damaged plan, manifest or shard (only its index is looked at).
    """
    path = Path(path)
    plan = read_plan(path)
    if plan is None:
        raise UserError(f"{path}: is not a store of proposals or regions; give the folder of one")
    manifest = Manifest.read(path) if Manifest.path(path).exists() else None
    total = -(-plan["images"] // plan["images_per_shard"])
    files = [file for index in range(total) if (file := path / shard_name(index, total)).exists()]
    counts = [np.zeros(0, np.int64), *(np.diff(Shard(file).offset) for file in files)]
    per_image = np.concatenate(counts)
    regions, size = int(per_image.sum()), size_of(path)
    made = {} if manifest is None else {
        "stage": manifest.stage, "code_version": manifest.code_version, "wall_seconds": manifest.wall_seconds,
        "config": manifest.config, "inputs": manifest.inputs, "clip": manifest.inputs.get("clip"),
        "flags": manifest.flags, "skipped": manifest.skipped, "content": manifest.content}
    return {
        "path": str(path), "kind": plan["kind"], "finished": manifest is not None, "images": plan["images"],
        "images_stored": len(per_image), "regions": regions,
        "regions_per_image": {"min": int(per_image.min()), "mean": round(float(per_image.mean()), 2),
                              "max": int(per_image.max())} if len(per_image) else None,
        "width": plan["dim"], "rows": row_type(plan), "bytes": size,
        "bytes_per_region": round(size / regions, 1) if regions else None,
        "shards": total, "shards_stored": len(files), "images_per_shard": plan["images_per_shard"], **made}
