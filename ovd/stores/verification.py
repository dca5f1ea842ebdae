"""Whether a store is what was written: every shard is read and compared with its own checksum and the manifest's."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ovd.errors import UserError
from ovd.stores.layout import DamagedShard, Shard, shard_name
from ovd.stores.lock import StoreLock
from ovd.stores.manifest import Manifest, fingerprint, fingerprint_json
from ovd.stores.shards import load_image_ids, read_plan, row_type

THREADS = 4  # digesting leaves the interpreter to other threads; more than this are faster than disks


@dataclass
class Verdict:
    """What :func:`verify_store` found.

    Attributes:
        manifest: None for an unfinished store.
        shards: How many the whole store has.
        missing: Names of the shards that are not there.
        damaged: Name of a file -> what is wrong with it.
        regions: In the sound shards.
    """

    path: Path
    manifest: Manifest | None
    shards: int
    missing: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    regions: int = 0

    @property
    def finished(self) -> bool:
        """Whether a manifest says that the store is whole."""
        return self.manifest is not None

    @property
    def is_broken(self) -> bool:
        """Whether it is not what it claims to be; an unfinished store claims only the shards that are there."""
        return bool(self.damaged or (self.finished and self.missing))


def verify_store(path: str | os.PathLike, progress: Callable[[int], None] = lambda size: None) -> Verdict:
    """Read all of a store, finished or not.

    Args:
        progress: Called with the number of bytes that were read, from several threads; :func:`size_of` in all.

    Raises:
        UserError: Not a store, or one without a usable plan, which says what its shards should be.
    """
    path = Path(path)
    plan = read_plan(path)
    if plan is None:
        raise UserError(f"{path}: is not a store of proposals or regions; give the folder of one")
    manifest = Manifest.read(path) if Manifest.path(path).exists() else None
    verdict = Verdict(path, manifest, -(-plan["images"] // plan["images_per_shard"]))
    ids = None
    try:
        ids = load_image_ids(path, plan["image_ids"])
    except UserError:
        if manifest or (path / "image_ids.npy").exists():
            verdict.damaged["image_ids.npy"] = "is missing or damaged"
    for name in ("plan.json", "image_ids.npy") if manifest else ():
        if name not in verdict.damaged and fingerprint(path / name) != manifest.files.get(name, {}).get("sha256"):
            verdict.damaged[name] = "is not the file that the manifest names"

    def check(index: int) -> int | None:
        expected = None if ids is None else ids[index * plan["images_per_shard"]:(index + 1) * plan["images_per_shard"]]
        return _check_shard(path / shard_name(index, verdict.shards), plan, manifest, expected, progress)

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        checks = {shard_name(index, verdict.shards): pool.submit(check, index) for index in range(verdict.shards)}
        try:
            for name, running in checks.items():
                try:
                    if (regions := running.result()) is None:
                        verdict.missing.append(name)
                    else:
                        verdict.regions += regions
                except DamagedShard as error:
                    verdict.damaged[name] = error.problem
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return verdict


def size_of(path: str | os.PathLike) -> int:
    """Bytes of the shards in a store's folder."""
    return sum(file.stat().st_size for file in Path(path).glob("shard-*-of-*.h5"))


def delete_damaged(verdict: Verdict) -> None:
    """Delete the damaged files, and before them the manifest: the stage's next run makes only what is not there.

    Raises:
        UserError: A run is writing the store; the plan is damaged, without which nothing can be gone on with.
    """
    if "plan.json" in verdict.damaged:
        raise UserError(f"{verdict.path}: {verdict.damaged['plan.json']} (plan.json), so no shard can be rebuilt by "
                        "itself; delete the folder and run the stage again")
    with StoreLock(verdict.path):
        Manifest.path(verdict.path).unlink(missing_ok=True)
        for name in verdict.damaged:
            (verdict.path / name).unlink(missing_ok=True)


def _check_shard(path: Path, plan: dict[str, Any], manifest: Manifest | None, ids: np.ndarray | None,
                 progress: Callable[[int], None]) -> int | None:
    """The number of regions of a sound shard, None for one that is not there; DamagedShard for any other."""
    if not path.exists():
        return None
    shard = Shard(path)
    said = manifest.files.get(path.name) if manifest else None
    if manifest and (said is None or (shard.size, shard.sha256) != (said["size"], said["sha256"])):
        raise DamagedShard(path, "is not the shard that the manifest names")
    if shard.plan != fingerprint_json(plan):
        raise DamagedShard(path, "belongs to a store of another configuration")
    if (shard.kind, shard.dim, shard.rows) != (plan["kind"], plan["dim"], row_type(plan)) or (
            ids is not None and not np.array_equal(shard.image_id, ids)):
        raise DamagedShard(path, "holds other images or rows than the plan says")
    shard.verify(progress)
    return int(shard.offset[-1])
