"""A recipe's journal as a report reads it: its stages, and which of them concern a run's folder."""

import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from ovd.errors import UserError

JOURNAL = "run.json"  # of a recipe; a training has its config under the same name
HEIGHT = 3  # so many folders above a run a recipe's journal is looked for


class StageTimes(msgspec.Struct):
    """A stage in a recipe's journal: when it ran (seconds of the epoch), its memory, its command and its outputs."""

    status: str = "running"
    intervals: list[tuple[float, float]] = []
    peak_memory_mb: float = 0.0
    outputs: dict[str, str] = {}
    command: list[str] = []
    reused: bool = False

    @property
    def seconds(self) -> float:
        """How long it ran."""
        total, reached = 0.0, float("-inf")
        for begin, end in sorted(self.intervals):
            total, reached = total + max(0.0, end - max(begin, reached)), max(reached, end)
        return total


class Recipe(msgspec.Struct):
    """A recipe's journal."""

    recipe: str
    seed: int
    stages: dict[str, StageTimes]
    machine: dict[str, Any] = {}
    code_version: str = ""
    report: dict[str, Any] = {}


def read_recipe(folder: Path) -> Recipe | None:
    """The journal in a folder; None where there is none. Raises UserError for a file that is cut."""
    path = folder / JOURNAL
    try:
        content = path.read_bytes()
        if b'"stages"' not in content:
            return None
        return msgspec.json.decode(content, type=Recipe)
    except OSError:
        return None
    except msgspec.ValidationError:
        return None  # the config of a training that has a section of this name
    except msgspec.DecodeError as error:
        raise UserError(f"{path}: not the journal of a run ({error}); delete it, and run the recipe") from error


def recipe_status(recipe: Recipe) -> str:
    """How far it is, in words."""
    counts: dict[str, int] = {}
    for stage in recipe.stages.values():
        counts[stage.status] = counts.get(stage.status, 0) + 1
    return ", ".join(f"{count} stage{'s' * (count != 1)} {status}"
                     for status, count in counts.items()) or "no stage has run"


def recipe_settings(recipe: Recipe) -> list[tuple[str, str]]:
    """(what, value) for people."""
    machine = ", ".join(f"{name} {value}" for name, value in recipe.machine.items())
    return [("recipe", f"{recipe.recipe}, seed {recipe.seed}"), ("code", recipe.code_version), ("machine", machine)]


def runs_below(work_dir: str | os.PathLike) -> list[Path]:
    """The folders below a recipe's (or any) folder that hold runs, in order of their names (2 before 10)."""
    marks = ("run.json", "metrics.json", "fewshot.json")
    found = {path.parent for depth in range(1, HEIGHT + 1) for mark in marks
             for path in Path(work_dir).glob("/".join(["*"] * depth + [mark]))}
    return sorted(found, key=lambda path: [(int(part), "") if part.isdigit() else (-1, part)
                                           for part in re.split(r"(\d+)", str(path))])


def stages_above(folder: Path) -> dict[str, StageTimes]:
    """The stages of the nearest recipe above whose command or outputs name this folder."""
    here = folder.resolve()
    for above in here.parents[:HEIGHT]:
        recipe = read_recipe(above)
        if recipe is not None:
            mine = f"/{here.relative_to(above.parent)}/"
            return {name: stage for name, stage in recipe.stages.items()
                    if any(mine in f"/{path}/" for path in [*stage.outputs, *_work_dir(stage.command)])}
    return {}


def _work_dir(command: Sequence[str]) -> list[str]:
    return [word for before, word in pairwise(command) if before == "--work-dir"]
