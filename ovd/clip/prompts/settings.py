"""What prompts are learned with: the ``prompts`` section of a config."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ovd.clip.prompts.losses import check_mode
from ovd.clip.prompts.pairs import FOREGROUND_IOU, LOWEST_IOU, Selection
from ovd.clip.prompts.tower import POSITIONS
from ovd.errors import UserError, nearest

RANGES = ((0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.1))


@dataclass(frozen=True)
class PromptSettings:
    """The ``prompts`` section of a config; the defaults are DetPro's.

    Attributes:
        context: K, vectors in the context.
        position: Where the class name stands: ``end``, ``middle`` or ``front``.
        mode: How background is treated, see :mod:`ovd.clip.prompts.losses`.
        background_context: Vectors of the background prompt (mode ``learn``).
        ranges: From, below: the IoU of the positives of each model of the ensemble.
        negatives: From, below: the IoU of background pairs.
        negatives_kept: Part of them that is used.
        epochs, batch_size, lr, momentum: SGD with the cosine schedule over whole epochs, without weight decay.
        temperature: T of the logits.
        holdout: Part of the images that is kept from training, to measure the accuracy on their base objects.
        seed: Of the initial vectors, the order of pairs and the draw of background pairs.
        ground_truth_store: Embeddings of the annotated boxes, below data_root; None to learn from proposals only.
    """

    context: int = 8
    position: str = "end"
    mode: str = "soft"
    background_context: int = 10
    ranges: tuple[tuple[float, float], ...] = RANGES
    negatives: tuple[float, float] = (LOWEST_IOU, FOREGROUND_IOU)
    negatives_kept: float = 0.1
    epochs: int = 6
    batch_size: int = 512
    lr: float = 2e-3
    momentum: float = 0.0
    temperature: float = 0.01
    holdout: float = 0.0
    seed: int = 0
    ground_truth_store: str | None = "regions/ground_truth"

    @classmethod
    def read(cls, section: Mapping[str, Any], where: str, **options: Any) -> "PromptSettings":
        """Check a config's section; ``options`` that are not None replace its values."""
        values = {**section, **{key: value for key, value in options.items() if value is not None}}
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                raise UserError(f"{where}: prompts has no key {key!r}{nearest(key, known)}")
        for key in ("negatives", "ranges"):
            if key in values:
                values[key] = _tuples(values[key])
        settings = cls(**values)
        try:
            settings._check()
        except UserError as error:
            raise UserError(f"{where}: prompts.{error}") from None
        return settings

    def _check(self) -> None:
        for key in ("context", "background_context", "epochs", "batch_size"):
            value = getattr(self, key)
            if not isinstance(value, int) or value < 1:
                raise UserError(f"{key} = {value!r}: needs a whole number, 1 or more")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise UserError(f"seed = {self.seed!r}: needs a whole number, 0 or more")
        limits = {"lr": (0, math.inf), "momentum": (-1e-9, 1), "temperature": (0, math.inf), "holdout": (-1e-9, 1),
                  "negatives_kept": (-1e-9, 1 + 1e-9)}
        for key, (low, high) in limits.items():
            value = getattr(self, key)
            if not isinstance(value, int | float) or not low < value < high:
                raise UserError(f"{key} = {value!r}: needs a number between {max(low, 0):g} and {high:g}")
        check_mode(self.mode)
        if self.position not in POSITIONS:
            raise UserError(f"position = {self.position!r}: needs one of {', '.join(POSITIONS)}")
        if not self.ranges:
            raise UserError("ranges: needs at least one, such as 0.5-0.6")
        for pair in self.ranges:
            _check_range("ranges", pair, FOREGROUND_IOU)
        _check_range("negatives", self.negatives, LOWEST_IOU)
        if len(set(self.ranges)) < len(self.ranges):
            raise UserError("ranges: one is there twice")

    def range_seed(self, positives: tuple[float, float]) -> int:
        """Seed of the model of a range of IoU; it does not depend on the other ranges."""
        return 1000 * self.seed + round(1000 * positives[0])

    def selection(self, positives: tuple[float, float], held_out: bool = False) -> Selection:
        """The pairs of the model of a range of IoU."""
        keep = 0.0 if self.mode == "fg_only" else self.negatives_kept
        return Selection(positives, self.negatives, keep, self.holdout, held_out, self.range_seed(positives))

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch: half a cosine from ``lr`` towards 0."""
        return self.lr * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))


def _check_range(key: str, limits: Any, lowest: float) -> None:
    numbers = isinstance(limits, tuple) and len(limits) == 2 and all(isinstance(v, int | float) for v in limits)
    if not numbers or not lowest <= limits[0] < limits[1]:
        raise UserError(f"{key}: {limits!r} is no range of IoU (from, below) that begins at {lowest} or above")


def _tuples(value: Any) -> Any:
    """Lists of a config or a command line, as the tuples that they stand for."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
