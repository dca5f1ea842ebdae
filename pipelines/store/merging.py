"""``ovd store merge``: stores of different images become one, as if a single run had made it."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ovd.engine.workers import available_cores
from ovd.errors import UserError
from ovd.stores.manifest import current_or_remove, fingerprint, fingerprint_json
from ovd.stores.shards import RegionStore

STAGE = "store merge"
OF_IMAGES = ("annotations", "proposals", "pkl", "files")  # inputs that say which images; others must be the same
THREADS = 2  # each holds a shard that it writes


def merge(parts: Sequence[str | Path], out: str | Path, images_per_shard: int | None = None, rows: str | None = None,
          overwrite: bool = False) -> Path:
    """Write one store with the regions of several.

    The parts' shards are verified on the way. Memory is that of a few shards of the new store, whatever its size.

    Args:
        images_per_shard: Of the new store; None for that of the first part.
        rows: ``"float16"`` or ``"int8"``; None for the parts' own.

    Returns:
        The new store.

    Raises:
        UserError: Parts that share an image, or differ in kind, width, rows, configuration, or another input than
            those that say which images they hold; a damaged shard; a store that another run writes.
    """
    start = time.perf_counter()
    if len({Path(path).resolve() for path in [*parts, out]}) <= len(parts):
        raise UserError(f"{out}: give different folders for the parts and for --out")
    if images_per_shard is not None and images_per_shard < 1:
        raise UserError(f"--images-per-shard {images_per_shard}: needs 1 or more")
    stores = [RegionStore(path) for path in parts]
    _require_alike(stores, rows)
    ids, owners = _image_ids(stores)
    first = stores[0]
    rows = None if first.rows is None else rows or first.rows
    images_per_shard = images_per_shard or first.images_per_shard
    record = _record(stores, images_per_shard, rows)
    out = Path(out)
    if current_or_remove(out, STAGE, **record, overwrite=overwrite):
        print(f"{out} is up to date")
        return out
    if rows is not None:
        import torch  # noqa: F401  rows are cast by it where it is loaded, much faster

    writer = RegionStore.create(out, first.kind, ids, images_per_shard, first.dim, rows=rows or "float16",
                                overwrite=overwrite, config=record)
    with writer.exclusive():
        missing = writer.missing()
        checks = _Checks()

        def write(shard: int) -> int:
            wanted = np.array(writer.image_ids(shard))
            owner = owners[np.searchsorted(ids, wanted)]
            regions = {}
            for number in np.unique(owner).tolist():
                part = stores[number]
                own = wanted[owner == number].tolist()
                for source in part.shards_of(own):
                    checks.require(number, part, source)
                regions.update((image_id, part.view(image_id)) for image_id in own)
            writer.write(shard, regions)
            return len(wanted)

        images = sum(len(writer.image_ids(shard)) for shard in missing)
        with ThreadPoolExecutor(min(THREADS, available_cores())) as pool, \
                tqdm(total=images, desc="merging", unit=" images") as bar:
            try:
                for done in pool.map(write, missing):
                    bar.update(done)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        seconds = time.perf_counter() - start
        manifest = writer.finish(STAGE, **record, counts=_common_counts(stores), flags=first.manifest.flags,
                                 skipped=[entry for store in stores for entry in store.manifest.skipped],
                                 wall_seconds=round(seconds, 1))
    size = sum(entry["size"] for entry in manifest.files.values())
    print(f"{out}: {manifest.counts['regions']:,} regions of {manifest.counts['images']:,} images of "
          f"{len(stores)} store{'s' * (len(stores) > 1)}, {size / 1e6:,.1f} MB in {writer.total_shards} shards, "
          f"{seconds:.0f} s"
          + (f" ({rows} rows)" if rows else ""))
    return out


class _Checks:
    """Verifies each shard of the parts once, for whichever thread needs it first."""

    def __init__(self) -> None:
        self._done: dict[tuple[int, int], Future] = {}
        self._lock = threading.Lock()

    def require(self, number: int, part: RegionStore, shard: int) -> None:
        """UserError when the shard is damaged; waits for the thread that looks at it."""
        own = Future()
        with self._lock:
            found = self._done.setdefault((number, shard), own)
        if found is own:
            try:
                own.set_result(part.verify([shard]))
            except BaseException as error:
                own.set_exception(error)
        found.result()


def _require_alike(stores: Sequence[RegionStore], rows: str | None) -> None:
    first = stores[0]
    ours = dict(_flat(_made(first)))
    for other in stores[1:]:
        theirs = dict(_flat(_made(other)))
        for key in [*ours, *theirs]:
            if ours.get(key) == theirs.get(key) or (key == "rows" and rows is not None):
                continue
            remedy = "say which rows the new store is to have: --rows" if key == "rows" else \
                "only stores that were made alike can be merged"
            raise UserError(f"{other.path}: {key} is {_shown(theirs.get(key))}, but {_shown(ours.get(key))} in "
                            f"{first.path}; {remedy}")


def _made(store: RegionStore) -> dict[str, Any]:
    """What must be the same in all parts."""
    manifest = store.manifest
    return {"kind": store.kind, "width": store.dim, "rows": store.rows, "stage": _maker(store),
            "config": _config(store), "input": _other_inputs(store), "mark": manifest.flags}


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _maker(store: RegionStore) -> str:
    return store.manifest.config.get("merged", store.manifest.stage)


def _config(store: RegionStore) -> dict[str, Any]:
    """What decides the content; not how it lies on disk."""
    return {key: value for key, value in store.manifest.config.items()
            if key not in ("images_per_shard", "rows", "merged")}


def _other_inputs(store: RegionStore) -> dict[str, str]:
    return {name: digest for name, digest in store.manifest.inputs.items()
            if name not in OF_IMAGES and not name.startswith("part ")}


def _image_ids(stores: Sequence[RegionStore]) -> tuple[np.ndarray, np.ndarray]:
    """All ids, ascending, and for each the number of the store that holds it; UserError when two do."""
    ids = np.concatenate([store.image_ids for store in stores])
    owners = np.repeat(np.arange(len(stores)), [len(store) for store in stores])
    order = np.argsort(ids, kind="stable")
    ids, owners = ids[order], owners[order]
    twice = np.flatnonzero(ids[1:] == ids[:-1])
    if len(twice):
        one, two = (stores[owners[index]].path for index in (twice[0], twice[0] + 1))
        more = f" (and {len(twice) - 1} more)" if len(twice) > 1 else ""
        raise UserError(f"image id {ids[twice[0]]}{more} is in {one} and in {two}; only stores of different images can "
                        "be merged")
    return ids, owners


def _record(stores: Sequence[RegionStore], images_per_shard: int, rows: str | None) -> dict[str, Any]:
    """Configuration and inputs of the new store: those that the parts share, and the parts."""
    config = {**_config(stores[0]), "images_per_shard": images_per_shard, "merged": _maker(stores[0])}
    if rows == "int8":
        config["rows"] = rows
    inputs = dict(_other_inputs(stores[0]))
    for name in OF_IMAGES:
        digests = [store.manifest.inputs[name] for store in stores if name in store.manifest.inputs]
        if digests:
            inputs[name] = digests[0] if len(set(digests)) == 1 else fingerprint_json(digests)
    inputs |= {f"part {number}": fingerprint(store.path) for number, store in enumerate(stores, 1)}
    return {"config": config, "inputs": inputs}


def _common_counts(stores: Sequence[RegionStore]) -> dict[str, Any]:
    """Counts such as crops a region; not the numbers of images, regions and shards, which the new store has its own."""
    first = stores[0].manifest.counts
    return {name: value for name, value in first.items() if name not in ("images", "regions", "shards")
            and all(store.manifest.counts.get(name) == value for store in stores)}


def _shown(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text[:15] if text.startswith("sha256:") else text if len(text) <= 60 else text[:57] + "..."
