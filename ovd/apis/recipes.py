"""The detector that a recipe trained: its config, its checkpoint in the work directory, its dataset."""

import argparse
import runpy
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovd.engine.config import load_config, walk
from ovd.errors import UserError
from ovd.models.classifier import CosineClassifier


@dataclass(frozen=True)
class Training:
    """What a stage ``train`` of a recipe is told."""

    config: str
    work_dir: Path
    data_root: str | None
    options: tuple[str, ...]

    @property
    def checkpoint(self) -> Path:
        """Where the trained weights are."""
        return self.work_dir / "final.pth"


def is_recipe(path: Path) -> bool:
    """Whether a Python file chains stages; a config of a detector does not."""
    try:
        return path.suffix == ".py" and any(line.startswith("stages =") for line in path.read_text().splitlines())
    except (OSError, UnicodeDecodeError):
        return False  # whoever reads it says what is wrong


def trained_detector(path: Path) -> Training:
    """The first detector with a vocabulary of words that a recipe trains, after its run.

    Paths in a recipe are relative to the current folder, as for ``ovd run``.

    Raises:
        UserError: A recipe that trains no such detector, or has not been run.
    """
    try:
        values = runpy.run_path(str(path))
        found = [training for stage in values["stages"] if (training := _training(stage["command"], values))]
    except Exception as error:  # a recipe is the user's code: whatever it raises is said in one line
        raise UserError(f"{path}: cannot be read as a recipe: {type(error).__name__}: {error}") from error
    detectors = [training for training in found if _takes_words(training)]
    if not detectors:
        raise UserError(f"{path}: trains no detector that takes words; give a config and its checkpoint")
    if not detectors[0].checkpoint.is_file():
        raise UserError(f"{detectors[0].checkpoint}: is not there yet: ovd run {path} makes it")
    return detectors[0]


def _training(command: str | list[str], values: Mapping[str, Any]) -> Training | None:
    words = shlex.split(command) if isinstance(command, str) else list(map(str, command))
    if not words or words[0] != "train":
        return None
    known = {"work_dir": str(Path("work_dirs", values["name"])), "seed": values.get("seed", 0), "threads": 1}
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("config")
    parser.add_argument("--work-dir")
    parser.add_argument("--data-root")
    parser.add_argument("--cfg-options", nargs="+", default=[])
    args, _ = parser.parse_known_args([word.format(**known) for word in words[1:]])
    return Training(args.config, Path(args.work_dir or Path("work_dirs", Path(args.config).stem)), args.data_root,
                    tuple(args.cfg_options))


def _takes_words(training: Training) -> bool:
    cfg = load_config(training.config, training.options, training.data_root)
    return any(part.get("type") in (CosineClassifier, "CosineClassifier") for _, part in walk(cfg.get("model") or {}))
