"""What an artefact was made from: a json file beside it with the stage, its configuration and input fingerprints.

The manifest of a file ``X`` is ``X.manifest.json``; that of a folder ``D`` is ``D/manifest.json``. A stage does::

    if current_or_remove(path, stage, config, inputs, overwrite):
        return                                              # the artefact is what it would be
    with publish(path, Manifest(kind, stage, config, inputs)) as (temporary, manifest):
        ...                                                 # write `temporary`, fill manifest.counts
"""

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ovd import __version__
from ovd.errors import UserError
from ovd.stores.atomic import TEMPORARY, atomic_write, sweep, write_bytes
from ovd.stores.lock import PREFIX as LOCK
from ovd.stores.lock import clear

SCHEMA = 1
PASSING = (TEMPORARY, LOCK)  # a file whose name begins so is no part of an artefact

_known: dict[tuple, str] = {}
# A file that changed so recently could change again without a new time stamp: its fingerprint is not remembered.
_SETTLED_NS = 100_000_000


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot be part of a configuration: {value!r}")


def canonical_json(value: Any) -> str:
    """The one way to write ``value``: sorted keys, no blanks, ASCII; tuples are lists, NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)


def fingerprint_json(value: Any) -> str:
    """``sha256:<hex>`` of a configuration (dicts, lists, numbers, text)."""
    return "sha256:" + hashlib.sha256(canonical_json(value).encode()).hexdigest()


def fingerprint(path: str | os.PathLike) -> str:
    """``sha256:<hex>`` of a file's bytes, or the content digest that a folder's manifest records.

    A file is read once per process and time stamp. Raises UserError for what is not there, and for a folder that is
    unfinished or that lost a file.
    """
    path = Path(path)
    if path.is_dir():
        manifest = Manifest.read(path)
        if broken := manifest.broken_file(path):
            raise UserError(f"{path}: {broken}; {manifest.remedy}")
        return manifest.content
    try:
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            key = (str(path.resolve()), stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if key in _known:
                return _known[key]
            sha = hashlib.sha256()
            while block := file.read(1 << 20):
                sha.update(block)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot read ({error.strerror})") from error
    digest = "sha256:" + sha.hexdigest()
    if time.time_ns() - stat.st_mtime_ns > _SETTLED_NS:
        _known[key] = digest
    return digest


@lru_cache(maxsize=1)
def code_version() -> str:
    """The package's version, with the commit when it runs from its own git checkout: ``0.1.0+g1a2b3c4d``."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return __version__
    with suppress(OSError, subprocess.SubprocessError):
        commit = subprocess.run(["git", "-C", root, "rev-parse", "--short=8", "HEAD"], capture_output=True, text=True,
                                timeout=10, check=True).stdout.strip()
        return f"{__version__}+g{commit}"
    return __version__


@dataclass
class Manifest:
    """Where an artefact comes from; see the module's docstring for where it lies.

    ``config`` and ``inputs`` (name -> fingerprint) say what the artefact depends on; ``flags`` are marks that go with
    it (``{"untrained": True}``), ``skipped`` the records left out. ``content`` and ``files`` (relative name ->
    ``{"size", "sha256"}``) are filled in on writing when empty.
    """

    kind: str
    stage: str
    config: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    content: str = ""
    code_version: str = field(default_factory=code_version)
    wall_seconds: float = 0.0
    schema: int = SCHEMA
    flags: dict[str, Any] = field(default_factory=dict)
    skipped: list[Any] = field(default_factory=list)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @staticmethod
    def path(artefact: str | os.PathLike) -> Path:
        """Where the manifest of ``artefact`` lies (a path that does not exist yet is taken for a file)."""
        artefact = Path(artefact)
        return artefact / "manifest.json" if artefact.is_dir() else artefact.with_name(artefact.name + ".manifest.json")

    @property
    def remedy(self) -> str:
        """How to make the artefact again."""
        return f"rebuild it: ovd {self.stage} ... --overwrite"

    def write(self, artefact: str | os.PathLike) -> None:
        """Write the manifest of a file or folder that is complete; digests its files unless ``files`` names them."""
        artefact = Path(artefact)
        if not self.files:
            self.files = {name: {"size": file.stat().st_size, "sha256": fingerprint(file)}
                          for name, file in _files_of(artefact)}
        self._save(artefact)

    def _save(self, artefact: Path) -> None:
        if not self.content:
            single = not artefact.is_dir() and len(self.files) == 1
            digests = {name: entry["sha256"] for name, entry in self.files.items()}
            self.content = next(iter(digests.values())) if single else fingerprint_json(digests)
        target = self.path(artefact)
        write_bytes(target, msgspec.json.format(canonical_json(vars(self)).encode(), indent=1) + b"\n")
        sweep(target.parent)

    @classmethod
    def read(cls, artefact: str | os.PathLike) -> "Manifest":
        """The manifest of ``artefact``; UserError when there is none (unfinished), it is cut, or of another schema."""
        artefact = Path(artefact)
        path = cls.path(artefact)
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            if not artefact.exists():
                raise UserError(f"{artefact}: does not exist; run the stage that makes it") from error
            raise UserError(f"{artefact}: has no manifest, so it is unfinished or was not made by this project; "
                            "run the stage that makes it again") from error
        except OSError as error:
            raise UserError(f"{path}: cannot read ({error.strerror})") from error
        try:
            manifest = msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not a manifest ({error}); delete it and run the stage again") from error
        if manifest.schema != SCHEMA:
            raise UserError(f"{path}: schema version {manifest.schema}, this version of ovd reads {SCHEMA}; "
                            f"{manifest.remedy}")
        return manifest

    def broken_file(self, artefact: str | os.PathLike) -> str | None:
        """What is wrong with the artefact's files, by existence and size: ``"shard-... is missing"``, or None."""
        artefact = Path(artefact)
        for name, entry in self.files.items():
            file = artefact / name if artefact.is_dir() else artefact  # a file may be renamed
            try:
                size = file.stat().st_size
            except OSError:
                return f"{name} is missing"
            if size != entry["size"]:
                return f"{name} has {size} bytes instead of {entry['size']}"
        return None


def _files_of(artefact: Path) -> Iterator[tuple[str, Path]]:
    if not artefact.is_dir():
        yield artefact.name, artefact
        return
    for file in sorted(artefact.rglob("*")):
        name = file.relative_to(artefact).as_posix()
        if file.is_file() and name != "manifest.json" and not file.name.startswith(PASSING):
            yield name, file


@contextmanager
def publish(path: str | os.PathLike, manifest: Manifest) -> Iterator[tuple[Path, Manifest]]:
    """Write the file ``path`` and its manifest so that a kill leaves both, or an artefact that counts as absent.

    Yields ``(temporary path, manifest)``; counts and flags may be filled in inside the block, and ``wall_seconds``
    is the time spent there unless set. Errors as :func:`ovd.stores.atomic.atomic_write`.
    """
    path = Path(path)
    start = time.perf_counter()
    with atomic_write(path) as temporary:
        yield temporary, manifest
        manifest.wall_seconds = manifest.wall_seconds or round(time.perf_counter() - start, 3)
        digest = fingerprint(temporary)
        manifest.files = {path.name: {"size": temporary.stat().st_size, "sha256": digest}}
        manifest.content = digest
        manifest._save(path)  # before the file gets its name: a manifest without its file is an absent artefact


def difference(artefact: str | os.PathLike, stage: str, config: Mapping[str, Any],
               inputs: Mapping[str, str]) -> str | None:
    """Why an artefact is not what ``stage`` would make now, in words; None when it is.

    Compares stage, configuration and inputs, then the files: existence and size, and for a single file its digest.
    """
    artefact = Path(artefact)
    try:
        manifest = Manifest.read(artefact)
    except UserError as error:
        return str(error).removeprefix(f"{artefact}: ")
    return _other_recipe(manifest, stage, config, inputs) or _damage(artefact, manifest)


def _other_recipe(manifest: Manifest, stage: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str | None:
    if manifest.stage != stage:
        return f"was made by the stage {manifest.stage!r}, not {stage!r}"
    if changed := _changed_key(manifest.config, json.loads(canonical_json(config))):
        return f"was made with another configuration: {changed}"
    for name in sorted({*manifest.inputs, *inputs}):
        if reason := _changed_input(manifest, name, inputs.get(name)):
            return reason
    return None


def _damage(artefact: Path, manifest: Manifest) -> str | None:
    if broken := manifest.broken_file(artefact):
        return broken
    if not artefact.is_dir() and fingerprint(artefact) != manifest.content:
        return "was changed after it was made"
    return None


def up_to_date(artefact: str | os.PathLike, stage: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
    """Whether ``artefact`` is what ``stage`` would make from this configuration and these input fingerprints."""
    return difference(artefact, stage, config, inputs) is None


def require(artefact: str | os.PathLike, kind: str | None = None, **inputs: str) -> Manifest:
    """The manifest of an artefact that a consumer needs.

    Args:
        artefact: file or folder.
        kind: what it must be (``"regions"``, ``"class_head"``, ...).
        inputs: input name -> the fingerprint that it must have been made from.

    Raises: UserError that says which input differs, with both fingerprints, and how to rebuild.
    """
    manifest = Manifest.read(artefact)
    if kind is not None and manifest.kind != kind:
        raise UserError(f"{artefact}: is of kind {manifest.kind!r}, needed is {kind!r}; give another file")
    for name, wanted in inputs.items():
        if reason := _changed_input(manifest, name, wanted):
            raise UserError(f"{artefact}: {reason}; {manifest.remedy}")
    if broken := manifest.broken_file(artefact):
        raise UserError(f"{artefact}: {broken}; {manifest.remedy}")
    return manifest


def current_or_remove(artefact: str | os.PathLike, stage: str, config: Mapping[str, Any], inputs: Mapping[str, str],
                      overwrite: bool = False) -> bool:
    """True when the stage can be skipped; else clears the way and returns False.

    ``overwrite`` removes an artefact, current or not, with its manifest. A store (a folder with a plan) that is
    unfinished, or that lost shards, is left to be gone on with (by several runs at once, of a part each). Raises
    UserError for a stale artefact without ``overwrite``, and for a folder that is no artefact.
    """
    artefact = Path(artefact)
    is_store = (artefact / "plan.json").exists()
    if not artefact.exists():  # a manifest alone is an interrupted publish
        return False
    begun = artefact.is_dir() and not Manifest.path(artefact).exists()
    if begun and (is_store or all(file.name.startswith(PASSING) for file in artefact.iterdir())):
        return False
    if overwrite:
        remove(artefact)
        return False
    reason = difference(artefact, stage, config, inputs)
    if reason is None:
        clear(artefact)
        return True
    if is_store and _can_be_mended(artefact, stage, config, inputs):
        Manifest.path(artefact).unlink(missing_ok=True)
        return False
    raise UserError(f"{artefact}: exists but {reason}; pass --overwrite to rebuild it, or choose another output path")


def _can_be_mended(store: Path, stage: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
    """Whether a store differs only by shards that it lost."""
    try:
        return _other_recipe(Manifest.read(store), stage, config, inputs) is None
    except UserError:
        if Manifest.path(store).exists():
            raise
        return True  # the run of another part has begun to mend it in this moment


def remove(artefact: str | os.PathLike) -> None:
    """Delete an artefact: the files that its manifest names, then the manifest; other files in a folder stay."""
    artefact = Path(artefact)
    if not artefact.is_dir():
        Manifest.path(artefact).unlink(missing_ok=True)
        artefact.unlink(missing_ok=True)
        return
    manifest = Manifest.read(artefact)
    Manifest.path(artefact).unlink()  # first: what is left of the artefact is then unfinished
    for name in manifest.files:
        (artefact / name).unlink(missing_ok=True)
    sweep(artefact)
    for folder in sorted((f for f in artefact.rglob("*") if f.is_dir()), reverse=True):
        with suppress(OSError):
            folder.rmdir()
    with suppress(OSError):
        artefact.rmdir()


def _short(value: str | None) -> str:
    return "none" if value is None else value[:15] if value.startswith("sha256:") else value


def _changed_input(manifest: Manifest, name: str, now: str | None) -> str | None:
    then = manifest.inputs.get(name)
    if then == now:
        return None
    if then is None:
        return f"does not record an input {name!r} (has: {', '.join(sorted(manifest.inputs)) or 'none'})"
    return f"was made from another {name!r} ({_short(then)}, needed is {_short(now)})"


def _changed_key(then: Any, now: Any, where: str = "") -> str | None:
    if isinstance(then, dict) and isinstance(now, dict):
        for key in sorted({*then, *now}):
            path = f"{where}.{key}" if where else key
            if key not in then:
                return f"{path} is new"
            if key not in now:
                return f"{path} is gone"
            if changed := _changed_key(then[key], now[key], path):
                return changed
        return None
    if then == now:
        return None
    return f"{where} was {_clip(then)}, now {_clip(now)}"


def _clip(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
