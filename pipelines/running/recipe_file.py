"""A recipe: a Python file that chains stages.

::

    name = "demo"                      # the work directory is work_dirs/<name>
    seed = 0                           # {seed} in the commands; `ovd run --seed` replaces it
    jobs = 2                           # how many stages may run side by side
    stages = [
        dict(name="scenes", command="shapes --seed {seed}"),
        dict(name="rpn", command="train configs/shapes/rpn.py --resume --work-dir {work_dir}/rpn",
             after=["scenes"], outputs=["{work_dir}/rpn/final.pth"]),
    ]
    report = dict(...)                 # what `ovd report` shows; see pipelines/report.py

``command`` is an ``ovd`` subcommand with its options, as text or as a list. ``after`` names earlier stages that must be
done before; left out, it is the stage above. ``outputs`` are files or folders by which the runner sees that a stage
need not be started again. ``threads`` replaces the stage's share of the cores. Besides ``{work_dir}`` and ``{seed}``,
a command may have ``{threads}``.
"""

import os
import re
import runpy
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovd.engine.workers import available_cores
from ovd.errors import UserError, nearest
from ovd.shipped import located

STAGE_KEYS = ("name", "command", "after", "outputs", "threads")


@dataclass(frozen=True)
class Stage:
    """One step: ``command`` are the words after ``ovd``, ``after`` the stages that must be done before it."""

    name: str
    command: tuple[str, ...]
    after: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    threads: int = 1


@dataclass(frozen=True)
class Recipe:
    """A recipe with its placeholders filled in; every stage comes after those it needs."""

    path: Path
    name: str
    seed: int
    jobs: int
    work_dir: Path
    stages: tuple[Stage, ...]
    report: Mapping[str, Any] = field(default_factory=dict)


def load_recipe(path: str | os.PathLike, work_dir: str | os.PathLike | None = None, seed: int | None = None) -> Recipe:
    """Read and check a recipe.

    Args:
        path: the Python file.
        work_dir: instead of ``work_dirs/<name>``, or ``work_dirs/<name>-seed<N>`` for another seed than the recipe's.
        seed: instead of the recipe's.

    Raises: UserError that names the file, the stage and what is wrong.
    """
    path = Path(path)
    values = _execute(path)
    name = _typed(values, "name", str, path)
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"{path}: name {name!r}: use letters, digits, '-', '_' and '.'")
    own_seed = _typed(values, "seed", int, path, 0)
    jobs = _typed(values, "jobs", int, path, 1)
    if jobs < 1:
        raise UserError(f"{path}: jobs is {jobs}: at least one stage must run")
    seed = own_seed if seed is None else seed
    if work_dir is None:
        work_dir = Path("work_dirs", name if seed == own_seed else f"{name}-seed{seed}")
    drafts = _check_stages(_typed(values, "stages", list, path), path)
    constants = {"work_dir": str(work_dir), "seed": str(seed)}
    stages = []
    for draft in drafts:
        threads = draft.get("threads") or _share_of_cores(draft, drafts, jobs)
        known = {**constants, "threads": str(threads)}
        where = f"{path}: stage {draft['name']}"
        stages.append(Stage(draft["name"], tuple(_fill(word, known, where) for word in draft["command"]),
                            tuple(draft["after"]), tuple(_fill(word, constants, where) for word in draft["outputs"]),
                            threads))
    report = _fill_all(_typed(values, "report", dict, path, {}), constants, f"{path}: report")
    return Recipe(path, name, seed, jobs, Path(work_dir), tuple(stages), report)


def load_section(path: str | os.PathLike, key: str, known: Mapping[str, str], leave: Sequence[str] = ()) -> dict:
    """A dict of a recipe by its name, with placeholders filled in.

    Args:
        known: placeholder -> value.
        leave: placeholders to be filled in later.
    """
    path = Path(path)
    section = _typed(_execute(path), key, dict, path)
    return _fill_all(section, {**known, **{name: f"{{{name}}}" for name in leave}}, f"{path}: {key}")


def usable_cores() -> int:
    """Cores this process may use, no more than ``OMP_NUM_THREADS`` says where it is set."""
    cores = available_cores()
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(limit)) if limit.isdigit() else cores)


def _execute(path: Path) -> dict[str, Any]:
    path = located(path)
    if not path.is_file():
        raise UserError(f"{path}: no such recipe; the project's own are in configs/recipes")
    try:
        return runpy.run_path(str(path))
    except SyntaxError as error:
        raise UserError(f"{path}: line {error.lineno}: {error.msg}") from error
    except Exception as error:  # a recipe is the user's code: whatever it raises is said in one line
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error


def _typed(values: Mapping[str, Any], key: str, kind: type, path: Path, default: Any = None) -> Any:
    value = values.get(key, default)
    if value is None:
        raise UserError(f"{path}: has no {key}")
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"{path}: {key} is {value!r}, not of type {kind.__name__}")
    return value


def _check_stages(entries: list, path: Path) -> list[dict[str, Any]]:
    """Stages as dicts with every key but ``threads`` present and of the right type."""
    from pipelines.cli import STAGES  # here, because the command line imports its stages

    if not entries:
        raise UserError(f"{path}: stages is empty")
    drafts: list[dict[str, Any]] = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise UserError(f"{path}: stage {number}: must be a dict with a name")
        name, where = entry["name"], f"{path}: stage {entry['name']}"
        earlier = [draft["name"] for draft in drafts]
        if not re.fullmatch(r"[\w.-]+", name):
            raise UserError(f"{where}: the name is used for its log: use letters, digits, '-', '_' and '.'")
        if name in earlier:
            raise UserError(f"{where}: there are two stages of this name")
        for key in entry:
            if key not in STAGE_KEYS:
                raise UserError(f"{where}: unknown key {key!r}{nearest(key, STAGE_KEYS)}")
        command = entry.get("command", ())
        command = shlex.split(command) if isinstance(command, str) else [str(word) for word in command]
        if not command:
            raise UserError(f"{where}: has no command")
        if command[0] not in STAGES or command[0] == "run":
            raise UserError(f"{where}: command: no subcommand {command[0]!r}{nearest(command[0], STAGES)}")
        after = _words(entry.get("after", earlier[-1:]), "after", where)
        for needed in after:
            if needed not in earlier:
                raise UserError(f"{where}: after: no earlier stage {needed!r}{nearest(needed, earlier)}")
        threads = entry.get("threads")
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise UserError(f"{where}: threads is {threads!r}, not a number from 1")
        drafts.append({"name": name, "command": command, "after": after, "threads": threads,
                       "outputs": _words(entry.get("outputs", []), "outputs", where)})
    return drafts


def _words(value: Any, key: str, where: str) -> list[str]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(word, str) for word in value):
        raise UserError(f"{where}: {key} must be a list of text, not {value!r}")
    return list(value)


def _share_of_cores(draft: dict[str, Any], drafts: Sequence[dict[str, Any]], jobs: int) -> int:
    """Cores for a stage: all of them, divided by the number of stages that may run at the same time.

    Two processes with a thread each use two cores better than one with two. The number depends on the recipe only, not
    on what happens to run, so that a run that was resumed computes what one in a single piece does.
    """
    before = {d["name"]: set(d["after"]) for d in drafts}
    for d in drafts:  # in order, so that what comes before a stage is known in full
        before[d["name"]] |= {name for needed in d["after"] for name in before[needed]}
    name = draft["name"]
    beside = [other for other in before if other != name and other not in before[name] and name not in before[other]]
    return max(1, usable_cores() // min(jobs, 1 + len(beside)))


def _fill(text: str, known: Mapping[str, str], where: str) -> str:
    def value(match: re.Match) -> str:
        if match[1] not in known:
            raise UserError(f"{where}: unknown placeholder {match[0]}{nearest(match[1], known)}")
        return known[match[1]]

    return re.sub(r"\{(\w+)\}", value, text)


def _fill_all(value: Any, known: Mapping[str, str], where: str) -> Any:
    if isinstance(value, str):
        return _fill(value, known, where)
    if isinstance(value, dict):
        return {key: _fill_all(item, known, where) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_fill_all(item, known, where) for item in value]
    return value
