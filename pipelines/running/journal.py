"""What is remembered of a recipe's run: ``<work dir>/run.json``.

Per stage it holds a key (what the stage was made from), its outputs, the times in which it ran, and its memory. Times
are intervals, so that a run that was interrupted, or whose stages overlapped, still has a true total.
"""

import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

import ovd
from ovd.errors import UserError
from ovd.shipped import located
from ovd.stores.atomic import write_bytes
from ovd.stores.manifest import Manifest, code_version
from pipelines.running.recipe_file import Recipe, usable_cores

FILE_NAME = "run.json"


@dataclass
class StageRecord:
    """One stage of a run.

    Attributes:
        key: fingerprint of what the stage depends on.
        status: ``running`` (or killed while it ran), ``failed``, ``interrupted`` or ``done``.
        intervals: begin and end (seconds of the epoch) of every time it ran for this key.
        peak_memory_mb: largest resident memory of one of its processes.
        outputs: path -> stamp of what was there when it was done.
        command: the words after ``ovd``.
        reused: its outputs were there before this run.
    """

    key: str
    status: str = "running"
    intervals: list[tuple[float, float]] = field(default_factory=list)
    peak_memory_mb: float = 0.0
    outputs: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    reused: bool = False

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return covered_seconds(self.intervals)


@dataclass
class Journal:
    """The records of a run's stages, in the order of the recipe, and where and with what they ran."""

    recipe: str
    seed: int
    stages: dict[str, StageRecord] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    code_version: str = ""
    report: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, work_dir: Path) -> "Journal":
        """The journal in ``work_dir``. Raises UserError when there is none or it cannot be read."""
        path = work_dir / FILE_NAME
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file; give the work directory of a recipe (ovd run RECIPE)") from error
        except msgspec.DecodeError as error:
            raise UserError(f"{path}: not the journal of a run ({error}); delete it, and run the recipe") from error

    @classmethod
    def open(cls, recipe: Recipe, forget: bool = False) -> "Journal":
        """The journal of a recipe, with what it says of stages that the recipe still has."""
        known: dict[str, StageRecord] = {}
        if not forget and (recipe.work_dir / FILE_NAME).exists():
            known = cls.read(recipe.work_dir).stages
        stages = {stage.name: known[stage.name] for stage in recipe.stages if stage.name in known}
        return cls(recipe.name, recipe.seed, stages, machine(), code_version(), dict(recipe.report))

    def save(self, work_dir: Path) -> None:
        """Write the journal; a kill leaves the old one or the new one."""
        write_bytes(work_dir / FILE_NAME, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @property
    def total_seconds(self) -> float:
        """Time in which any stage ran."""
        return covered_seconds(interval for record in self.stages.values() for interval in record.intervals)


def covered_seconds(intervals: Iterable[Sequence[float]]) -> float:
    """Length of the union of ``(begin, end)`` intervals."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


@contextmanager
def locked(work_dir: Path) -> Iterator[None]:
    """Hold ``work_dir`` for this process. Raises UserError while another process has it."""
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        file = open(work_dir / ".lock", "w")  # noqa: SIM115 (closed below, after what it guards)
    except OSError as error:
        raise UserError(f"{work_dir}: cannot write there ({error.strerror}); choose another --work-dir") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{work_dir}: a recipe is running there already; wait for it, or choose another "
                            "--work-dir") from error
        yield


def stamp(path: str) -> str:
    """What tells one state of an output from another: its manifest's content digest, or size and time; "" if absent."""
    file = Path(path)
    if not file.exists():
        return ""
    try:
        return Manifest.read(file).content
    except UserError:
        stat = file.stat()
        return f"{stat.st_size} bytes at {stat.st_mtime_ns}"


def code_digest(commands: Iterable[Sequence[str]]) -> str:
    """Digest of the project's code and of the configurations that commands name: when it changes, stages look again."""
    packages = Path(ovd.__file__).parent, Path(__file__).parents[1]
    named = {word for words in commands for word in words if word.endswith(".py")}
    folders = {*packages, *(_config_folder(located(word)) for word in named)}
    sha = hashlib.sha256()
    for folder in sorted(folders):
        for file in sorted(folder.rglob("*.py")):
            sha.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes() + b"\0")
    return sha.hexdigest()


def _config_folder(path: Path) -> Path:
    """Where a config and what it reads lie: the folder ``configs`` above it, or its own."""
    path = path.resolve()
    return next((folder for folder in path.parents if folder.name == "configs"), path.parent)


def machine() -> dict[str, Any]:
    """What the figures of a run depend on besides the code: cores, memory, processor, versions."""
    found = {"cores": usable_cores(), "processor": _processor(), "system": platform.system(),
             "python": platform.python_version()}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gb"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
    for package in ("torch", "onedl-mmdetection", "open-clip-torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
