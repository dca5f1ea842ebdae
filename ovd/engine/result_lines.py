"""One line of JSON an evaluation, in ``<work_dir>/results.jsonl``: the figures of a run over time, for scripts.

::

    {"config": "mask_rcnn_r50_fpn_coco", "kind": "val", "iteration": 5000, "epoch": null, "boxAP": 24.31, "bAP50": ...,
     "easy": {"giraffe": 51.2, ...}, "hard": {"hair drier": 0.0, ...}, "remaining": 61200,
     "finish": "2030-01-02T03:04:05"}
"""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdet.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop

FILE = "results.jsonl"
EXTREMES = 7  # as many classes are named as easy, and as hard

# key of a line -> figure of OpenVocabMetric
FIGURES = {
    "boxAP": "ap", "bAP50": "ap50", "bAP75": "ap75", "bAP-s": "ap_small", "bAP-m": "ap_medium", "bAP-l": "ap_large",
    "mskAP": "mask_ap", "mAP50": "mask_ap50", "mAP75": "mask_ap75", "mAP-s": "mask_ap_small",
    "mAP-m": "mask_ap_medium", "mAP-l": "mask_ap_large",
}  # fmt: skip


def result_line(metrics: Mapping[str, Any], class_ap: Mapping[str, float]) -> dict[str, Any]:
    """The part of a line that an evaluation decides.

    Args:
        metrics: ``{"all/ap": per cent, ...}``, as from :class:`~ovd.evaluation.metric.OpenVocabMetric`. What it lacks,
            the line lacks (masks, of a model without); what is NaN or no number is null.
        class_ap: AP of each class in per cent; classes whose AP is NaN have no ground truth and are left out.

    Returns:
        the figures of all classes; where there are novel ones, also ``base`` and ``novel`` (the same of each); ``easy``
        and ``hard``, the classes with the highest and the lowest AP, from the easiest and from the hardest on.
    """

    def figures(group: str) -> dict[str, float | None]:
        found = {key: f"{group}/{name}" for key, name in FIGURES.items()}
        return {key: _number(metrics[name]) for key, name in found.items() if name in metrics}

    line: dict[str, Any] = figures("all")
    if any(value is not None for value in figures("novel").values()):
        line |= {group: figures(group) for group in ("base", "novel")}
    known = {name: value for name, ap in class_ap.items() if (value := _number(ap)) is not None}
    ranked = sorted(known, key=lambda name: -known[name])  # stable: classes of equal AP stay in their order
    line["easy"] = {name: known[name] for name in ranked[:EXTREMES]}
    line["hard"] = {name: known[name] for name in ranked[::-1][:EXTREMES]}
    return line


def append_line(path: str | os.PathLike, record: Mapping[str, Any]) -> None:
    """Append ``record`` to a file of JSON lines; a line that an interruption cut off gets its end first."""
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(record, allow_nan=False, ensure_ascii=False).encode() + b"\n")


@HOOKS.register_module()
class ResultLinesHook(Hook):
    """Appends a line to ``results.jsonl`` for every evaluation, in training and in testing.

    In training, ``remaining`` is the time that is left in seconds, from the pace since this process began (evaluations
    included), and ``finish`` when that will be, on the local clock; both are null in testing.
    """

    def __init__(self) -> None:
        self.began: tuple[float, int] | None = None  # seconds, iterations done
        self.loaded: dict = {}  # what a checkpoint says of itself

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Remember how far the weights were trained."""
        self.loaded = checkpoint.get("meta") or {}

    def before_train(self, runner: Any) -> None:
        """Start the clock."""
        self.began = time.perf_counter(), runner.iter

    def after_val_epoch(self, runner: Any, metrics: dict | None = None) -> None:
        """A line for an evaluation during training."""
        counts_epochs = runner.train_loop is not None and not isinstance(runner.train_loop, IterBasedTrainLoop)
        self._append(runner, runner.val_evaluator, metrics, kind="val", iteration=runner.iter,
                     epoch=runner.epoch if counts_epochs else None, remaining=self._remaining(runner))

    def after_test_epoch(self, runner: Any, metrics: dict | None = None) -> None:
        """A line for a test."""
        self._append(runner, runner.test_evaluator, metrics, kind="test", iteration=self.loaded.get("iter"),
                     epoch=self.loaded.get("epoch") or None, remaining=None)

    def _remaining(self, runner: Any) -> float | None:
        if self.began is None or runner.iter <= self.began[1]:
            return None
        pace = (time.perf_counter() - self.began[0]) / (runner.iter - self.began[1])
        return pace * (runner.max_iters - runner.iter)

    def _append(self, runner: Any, evaluator: Any, metrics: dict | None, remaining: float | None, **where: Any) -> None:
        if not is_main_process():
            return
        name = Path(runner.cfg.filename).stem if runner.cfg.filename else runner.experiment_name
        if runner.cfg.get("smoke"):  # a smoke test's scores mean nothing: there are none
            append_line(Path(runner.work_dir, FILE), {"config": name, **where, "smoke": True})
            return
        class_ap: dict[str, dict] = {}
        for metric in evaluator.metrics:
            class_ap |= getattr(metric, "class_ap", {})  # other projects' metrics have none
        finish = None
        if remaining is not None:
            finish = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + remaining))
            remaining = round(remaining)
        append_line(Path(runner.work_dir, FILE), {
            "config": name, **where, **result_line(metrics or {}, class_ap.get("bbox") or class_ap.get("segm") or {}),
            "remaining": remaining, "finish": finish})


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return round(number, 3) if math.isfinite(number) else None
