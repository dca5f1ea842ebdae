"""Data that is there: annotations, images, stores, class heads and registries, each opened but not read whole."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError, safe_open

from ovd.data.annotations import load_images
from ovd.engine.doctor.findings import Finding, short, size
from ovd.errors import UserError
from ovd.stores.manifest import PASSING, Manifest, fingerprint
from ovd.stores.summary import summarise
from ovd.stores.verification import verify_store

DEPTH = 3  # folders below a dataset in which stores are looked for
READ = 150e6  # bytes of an annotation file that is read; larger ones only with ``deep``
BUDGET = 1.5  # seconds for reading annotation files, unless ``deep``
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
WEIGHTS = (".safetensors", ".pt", ".pth", ".bin")
MOST = 12  # files or stores of a kind that are listed, in a dataset


def look_at_data(root: str | Path, deep: bool = False) -> dict[str, list[Finding]]:
    """Findings by dataset: of ``root`` if that is one, else of each folder in it.

    Args:
        deep: read annotation files of any size, and every byte of stores.
    """
    root = Path(root)
    if not root.is_dir():
        return {str(root): [Finding("folder", "does not exist", "note", "put data there (data/README.md), or name it "
                                    "with --data-root")]}
    try:
        folders = [root] if _is_dataset(root) else [f for f in sorted(root.iterdir()) if f.is_dir() and _is_dataset(f)]
    except OSError as error:
        return {str(root): [Finding("folder", f"cannot be read ({error})", "broken")]}
    if not folders:
        return {str(root): [Finding("data", "no dataset", "note", "data/README.md says where to put one; ovd shapes "
                                    "renders the embedded benchmark")]}
    clock = _Clock(deep)
    found = {str(folder): _dataset(folder, clock) for folder in folders}
    return {folder: findings for folder, findings in found.items() if findings}


def look_at_weights(folder: str | Path) -> list[Path]:
    """Weights files in a folder."""
    folder = Path(folder)
    return sorted(file for file in folder.iterdir() if file.suffix in WEIGHTS) if folder.is_dir() else []


class _Clock:
    """Whether there is time to read a file."""

    def __init__(self, deep: bool) -> None:
        self.deep, self._start = deep, time.perf_counter()

    def allows(self, length: int) -> bool:
        return self.deep or (length <= READ and time.perf_counter() - self._start < BUDGET)


def _is_dataset(folder: Path) -> bool:
    return (folder / "annotations").is_dir() or any(folder.glob("*.json")) or any(
        (folder / name).is_dir() for name in ("proposals", "regions", "class_heads", "train2017", "val2017"))


def _dataset(folder: Path, clock: _Clock) -> list[Finding]:
    if _kind(folder) == "class_registry":
        return [safely(look_at_registry, folder)]
    found: list[Finding] = []
    try:
        files = sorted(file for place in (folder, folder / "annotations") if place.is_dir()
                       for file in place.glob("*.json") if not _is_manifest(file))
        found += [safely(look_at_annotations, file, clock) for file in files[:MOST] if not _is_something_else(file)]
        found += list(_images(folder))
        stores = list(_stores(folder, DEPTH))
        found += [safely(look_at_store, store, clock.deep) for store in stores[:MOST]]
        heads = sorted(folder.glob("class_heads/*.safetensors")) + sorted(folder.glob("*.safetensors"))
        found += [safely(look_at_head, head) for head in heads[:MOST]]
        found += [safely(look_at_registry, path.parent) for path in sorted(folder.glob("*/manifest.json"))
                  if (path.parent / "plan.json").exists() is False and _kind(path.parent) == "class_registry"]
    except OSError as error:
        found.append(Finding(str(folder), f"cannot be read ({error})", "broken"))
    clips = Counter(one.facts["clip"] for one in found if one.facts.get("clip"))
    if len(clips) > 1:
        told = ", ".join(f"{short(clip)} ({number})" for clip, number in clips.most_common())
        found.append(Finding("CLIPs", f"stores and class heads of {len(clips)} CLIPs are side by side: {told}; those "
                             "of different ones do not go together", "note"))
    return found


def safely(look: Callable[..., Finding], path: Path, *arguments: Any) -> Finding:
    """What a look at a file finds; a file that is broken in a way that nobody thought of is a finding too."""
    try:
        return look(path, *arguments)
    except Exception as error:
        return Finding(path.name, f"cannot be looked at ({type(error).__name__}: {_without(error, path)})", "broken")


def _is_manifest(file: Path) -> bool:
    return file.name == "manifest.json" or file.name.endswith(".manifest.json") or file.name.startswith(PASSING)


def _is_something_else(file: Path) -> bool:
    """Whether it is sound json without a list of images, such as a split; only small files are read for it."""
    if file.stat().st_size > READ / 10:
        return False
    try:
        content = msgspec.json.decode(file.read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError, OSError):
        return False
    return not isinstance(content, dict) or "images" not in content


def _kind(folder: Path) -> str | None:
    try:
        return Manifest.read(folder).kind
    except UserError:
        return None


def look_at_annotations(file: Path, clock: _Clock | None = None) -> Finding:
    """An annotation file: its images and fingerprint, where it is small enough."""
    length = file.stat().st_size if file.exists() else 0
    if clock and not clock.allows(length):
        return Finding(file.name, f"annotations, {size(length)} (not read: --deep reads it)", facts={"bytes": length})
    try:
        images = len(load_images(file))
    except UserError as error:
        return Finding(file.name, f"no annotation file: {_without(error, file)}", "broken", "fetch or make it again",
                       {"bytes": length})
    digest = fingerprint(file)
    state, told = "ok", ""
    if Manifest.path(file).exists():
        try:
            if Manifest.read(file).content != digest:
                state, told = "broken", "; was changed after it was made"
        except UserError as error:
            state, told = "broken", f"; {_without(error, file)}"
    return Finding(file.name, f"annotations of {images:,} images, {size(length)}, {short(digest)}{told}", state,
                   "make it again: ovd build-zsl ... --overwrite" if told else "",
                   {"images": images, "bytes": length, "fingerprint": digest})


def _images(folder: Path) -> Iterator[Finding]:
    """Folders of images, counted by their files' names."""
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        if place.name in ("annotations", "proposals", "regions", "class_heads", "blocks", "globals"):
            continue
        if number := count_images(place):
            yield Finding(place.name, f"{number:,} images", facts={"images": number})


def count_images(folder: Path) -> int:
    """Files in a folder, not below it, whose names are those of images."""
    with os.scandir(folder) as entries:
        return sum(entry.name.lower().endswith(IMAGES) for entry in entries)


def _stores(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / "plan.json").exists():
        yield folder
    elif depth:
        with os.scandir(folder) as entries:
            below = sorted(entry.path for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        for path in below:
            yield from _stores(Path(path), depth - 1)


def look_at_store(path: Path, deep: bool = False) -> Finding:
    """A store of proposals or regions: every shard's index, and with ``deep`` every byte."""
    name = f"{path.parent.name}/{path.name}"
    again = f"look with ovd store verify {path} --delete-damaged, then run the stage that made it again"
    try:
        summary = summarise(path)
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:
        return Finding(name, f"store is damaged: {_without(error, path)}", "broken", again)
    facts: dict[str, Any] = {key: summary[key] for key in ("kind", "finished", "images", "regions", "width", "bytes")}
    facts |= {"clip": summary.get("clip"), "fingerprint": summary.get("content")}
    told = f"{summary['images']:,} images, {summary['regions']:,} {summary['kind']}, {size(summary['bytes'])}"
    if not summary["finished"]:
        return Finding(name, f"store is unfinished: {summary['shards_stored']} of {summary['shards']} shards", "note",
                       "run the stage that makes it again: it goes on where it was", facts)
    try:
        manifest = Manifest.read(path)
        if broken := manifest.broken_file(path):
            return Finding(name, f"store is damaged: {broken}", "broken", again, facts)
        if deep and (verdict := verify_store(path)).is_broken:
            which = next(iter(verdict.damaged.items()), (next(iter(verdict.missing), ""), "is missing"))
            return Finding(name, f"store is damaged: {which[0]} {which[1]}", "broken", again, facts)
    except (UserError, OSError) as error:
        return Finding(name, f"store is damaged: {_without(error, path)}", "broken", again, facts)
    marks = ", of an untrained CLIP" if summary.get("flags", {}).get("untrained") else ""
    clip = f", CLIP {short(facts['clip'])}" if facts["clip"] else ""
    return Finding(name, f"store of {told}{clip}{marks}, {short(facts['fingerprint'])}" + (", verified" * deep),
                   facts=facts)


def look_at_head(path: Path) -> Finding:
    """A class head file: its classes, width and CLIP, from its header; other safetensors are weights."""
    try:
        with safe_open(path, "np") as file:  # refuses a file that is cut
            described = (file.metadata() or {}).get("class_head")
            width = file.get_slice("weights").get_shape()[-1] if described else None
        if described is None:
            return Finding(path.name, f"weights, {size(path.stat().st_size)}")
        head = msgspec.json.decode(described)
        clip = head["stats"].get("clip")
        facts = {"classes": len(head["names"]), "width": width, "clip": clip}
    except (SafetensorError, OSError, msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
        return Finding(path.name, f"class head is damaged: {_without(error, path)}", "broken",
                       "make it again with ovd class-embeddings (or ovd learn-prompts)")
    return Finding(path.name, f"class head of {facts['classes']:,} classes, {width} wide"
                   + (f", CLIP {short(clip)}" if clip else ""), facts=facts)


def described_file(path: Path) -> Finding:
    """Weights that are no CLIP's: a detector that was exported as one file, or a part of a model."""
    length = size(path.stat().st_size)
    try:
        with safe_open(path, "np") as file:
            record = (file.metadata() or {}).get("ovd_model")
    except (SafetensorError, OSError):
        record = None
    if record is None:
        return Finding(path.name, f"weights, {length}; do not say of which model (a CLIP's: name it with --model)")
    return Finding(path.name, f"a detector in one file, {length}")


def look_at_registry(path: Path) -> Finding:
    """A registry of classes that were added one by one."""
    try:
        manifest = Manifest.read(path)
        if broken := manifest.broken_file(path):
            return Finding(path.name, f"registry of classes is damaged: {broken}", "broken",
                           "ovd classes show, then add the class again with --replace")
        names = [entry["name"] for entry in manifest.config["classes"]]
    except (UserError, KeyError, TypeError) as error:
        return Finding(path.name, f"registry of classes is damaged: {_without(error, path)}", "broken")
    return Finding(path.name, f"registry of {len(names)} classes: {', '.join(names[:5])}{', ...' * (len(names) > 5)}",
                   facts={"classes": len(names)})


def _without(error: Exception, path: Path) -> str:
    """What an error says, in a line, without the path that it begins with."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said.removeprefix(f"{path}: ").removeprefix(f"{path} ").replace(f"{path}/", "")[:240]
