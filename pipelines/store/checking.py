"""``ovd store verify`` and ``ovd store info``."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ovd.errors import UserError
from ovd.stores.shards import read_plan
from ovd.stores.summary import summarise
from ovd.stores.verification import Verdict, delete_damaged, size_of, verify_store

SHOWN = 8  # names of missing shards in a line


def verify(stores: Sequence[str | Path], delete: bool = False) -> int:
    """Read every shard of ``stores``, print all that is wrong with them.

    Args:
        delete: Delete what is damaged, so that the stage makes it again.

    Returns:
        0 when all are whole, 1 when some are sound but unfinished, 2 when some are damaged.

    Raises:
        UserError: Something among ``stores`` is not a store.
    """
    for store in stores:  # before hours are spent on the first
        if read_plan(Path(store)) is None:
            raise UserError(f"{store}: is not a store of proposals or regions; give the folder of one")
    status = 0
    with tqdm(total=sum(map(size_of, stores)), desc="reading", unit="B", unit_scale=True) as bar:
        lock = threading.Lock()

        def count(size: int) -> None:
            with lock:
                bar.update(size)

        verdicts = [verify_store(store, count) for store in stores]
    for verdict in verdicts:
        _report(verdict, delete)
        status = max(status, 2 if verdict.is_broken else 0 if verdict.finished else 1)
    return status


def info(store: str | Path, as_json: bool = False) -> int:
    """Print what a store is; returns 0. UserError when it is none, or is damaged."""
    summary = summarise(store)
    if as_json:
        print(json.dumps(summary, indent=1))
    else:
        _print_summary(summary)
    return 0


def _report(verdict: Verdict, delete: bool) -> None:
    path, there = verdict.path, verdict.shards - len(verdict.missing)
    for name, problem in sorted(verdict.damaged.items()):
        print(f"damaged: {path / name}: {problem}")
    if verdict.missing:
        more = f" and {len(verdict.missing) - SHOWN} more" if len(verdict.missing) > SHOWN else ""
        print(f"{path}: {len(verdict.missing)} of {verdict.shards} shards are missing: "
              + ", ".join(verdict.missing[:SHOWN]) + more)
    if not verdict.is_broken:
        what = "" if verdict.finished else "unfinished, run the stage that makes it to go on; so far "
        print(f"{path}: {what}{there} shards, {verdict.regions:,} regions, nothing is damaged")
        return
    stage = f"ovd {verdict.manifest.stage}" if verdict.manifest else "the stage that made it"
    if delete:
        delete_damaged(verdict)
        print(f"{path}: deleted the manifest and {_files(len(verdict.damaged), 'damaged ')}; run {stage} again, as "
              "before: it makes only what is missing")
    elif "plan.json" in verdict.damaged:
        print(f"{path}: to repair it, delete the folder and run {stage} again")
    elif verdict.damaged:
        print(f"{path}: to repair it, delete {_files(len(verdict.damaged))} (or pass --delete-damaged) and run "
              f"{stage} again, as before: it makes only those")
    else:
        print(f"{path}: to repair it, run {stage} again, as before: it makes only what is missing")


def _files(count: int, kind: str = "") -> str:
    return f"{count} {kind}file{'s' * (count != 1)}"


def _print_summary(s: dict[str, Any]) -> None:
    per = s["regions_per_image"]
    lines = [("store", s["path"] + ("" if s["finished"] else "  (unfinished)")), ("kind", s["kind"]),
             ("images", f"{s['images']:,}" if s["finished"] else f"{s['images_stored']:,} of {s['images']:,}"),
             ("regions", f"{s['regions']:,}")]
    if per:
        lines.append(("an image", f"{per['min']} to {per['max']}, {per['mean']} on average"))
    if s["width"]:
        lines.append(("embeddings", f"{s['width']} wide, {s['rows']}"))
    each = f", {s['bytes_per_region']:,} bytes a region" if s["bytes_per_region"] else ""
    lines += [("size", f"{s['bytes'] / 1e6:,.1f} MB{each}"),
              ("shards", f"{s['shards_stored']} of {s['shards']}, of {s['images_per_shard']} images")]
    if s["finished"]:
        lines += [("stage", f"{s['stage']} ({s['code_version']}, {s['wall_seconds']:g} s)"),
                  ("config", json.dumps(s["config"])),
                  *((f"input {name}", digest) for name, digest in s["inputs"].items())]
        if s["flags"]:
            lines.append(("marks", json.dumps(s["flags"])))
        lines.append(("left out", f"{len(s['skipped'])} images"))
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value}")
