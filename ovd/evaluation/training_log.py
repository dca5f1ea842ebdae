"""What a run logged while it trained, from the json lines that mmengine writes, over all times that it was resumed."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Curve:
    """Values over iterations (epochs, where ``steps`` count those): both ``[N]``, steps ascending."""

    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class TrainingLog:
    """The scalars of a run.

    Attributes:
        curves: name as in the log (``loss``, ``loss_cls``, ``lr``, ``time``, ``memory``) -> curve.
    """

    curves: Mapping[str, Curve]

    @property
    def losses(self) -> dict[str, Curve]:
        """The curves of losses: the total first, then its parts in the order of the log."""
        parts = {name: curve for name, curve in self.curves.items() if name.rpartition(".")[2].startswith("loss")}
        return {name: parts[name] for name in ["loss"] * ("loss" in parts)} | parts

    @property
    def last_step(self) -> int:
        """The last iteration that was logged."""
        return max((int(curve.steps[-1]) for curve in self.curves.values() if len(curve.steps)), default=0)

    def median(self, name: str) -> float | None:
        """The middle value of a curve, such as seconds an iteration (``time``); None where it was not logged."""
        curve = self.curves.get(name)
        return float(np.median(curve.values)) if curve is not None and len(curve.values) else None

    def peak(self, name: str) -> float | None:
        """The largest value of a curve, such as ``memory``; None where it was not logged."""
        curve = self.curves.get(name)
        return float(curve.values.max()) if curve is not None and len(curve.values) else None


def read_training_log(work_dir: Path) -> TrainingLog | None:
    """The log of the run in ``work_dir``, None where nothing was logged.

    A run that was resumed has a file for each time; of iterations that were done twice, the later time counts. Lines
    that an interruption cut off are left out.
    """
    training: list[dict[str, Any]] = []
    for path in sorted(work_dir.glob("*/vis_data/scalars.json")):
        rows = [row for row in _rows(path) if "loss" in row]
        if rows:
            training = [row for row in training if row["step"] < rows[0]["step"]] + rows
    return TrainingLog(curves_of(training)) if training else None


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step", row.get("iter")), int):
            row["step"] = row.get("step", row.get("iter"))
            rows.append(row)
    return rows


def curves_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """The curve of every number in rows with a ``step``; what is not finite is left out."""
    points: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in ("step", "iter", "epoch") and isinstance(value, int | float) and math.isfinite(value):
                points.setdefault(name, []).append((row["step"], float(value)))
    return {name: Curve(np.array([step for step, _ in found], np.int64), np.array([value for _, value in found]))
            for name, found in points.items()}
