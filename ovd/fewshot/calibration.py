"""How scores of classes from boxes compare with those of classes from text, settled on base classes alone.

A class of the detector has an advantage over one that is added, or the reverse: vectors of boxes are nearer to regions
than vectors of names are. The measure of it: of base classes, for which both a name and boxes are at hand, one half
keeps its names and the other half is scored by its boxes, as if added; then the halves change places. The cross-entropy
of labelled regions says how well the scores of both kinds compare. Novel classes have no part in it: heads are cut to
the base classes, and labels are positions in these.

Shapes: N regions, C base classes, D embedding width.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovd.errors import UserError
from ovd.fewshot.combination import combine, lam_of_shots
from ovd.stores.class_heads import ClassHead

_RIDGE = 1e-4  # keeps the fit finite where the regions do not say what is better


@dataclass(frozen=True, eq=False)
class BaseRegions:
    """Labelled regions of base classes, none of them among the boxes that define classes.

    Attributes:
        vectors_ND: In the space of the heads.
        labels_N: int64, positions in ``names``; -1 for regions that show no class, which need a background row in the
            text head.
        names: The base classes.
        temperature: Cross-entropy is of the logits over scale and temperature, as a detector's softmax has them; None
            for the logits as they are.
        seed: Of the halves.

    Raises:
        UserError: Labels that are no positions, no labelled region, one class alone, NaN.
    """

    vectors_ND: Tensor
    labels_N: Tensor
    names: Sequence[str]
    temperature: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for key, value in (("vectors_ND", torch.as_tensor(self.vectors_ND).detach().to("cpu", torch.float32)),
                           ("labels_N", torch.as_tensor(self.labels_N).to("cpu", torch.int64)),
                           ("names", tuple(self.names))):
            object.__setattr__(self, key, value)
        if self.vectors_ND.ndim != 2 or self.labels_N.shape != self.vectors_ND.shape[:1]:
            raise UserError(f"calibration: regions of shape {list(self.vectors_ND.shape)} with labels of shape "
                            f"{list(self.labels_N.shape)}, expected [N, D] and [N]")
        if len(self.names) < 2:
            raise UserError("calibration: it takes two base classes or more, some as text and some as if added")
        if not (self.labels_N >= 0).any():
            raise UserError("calibration: no region of a base class; give annotated ones")
        if not -1 <= int(self.labels_N.min()) <= int(self.labels_N.max()) < len(self.names):
            raise UserError(f"calibration: labels from {int(self.labels_N.min())} to {int(self.labels_N.max())}, but "
                            f"there are {len(self.names)} base classes (-1 is for no class)")
        if not torch.isfinite(self.vectors_ND).all():
            raise UserError("calibration: the regions' vectors have NaN or infinity; embed them again")

    def halves(self) -> Iterator[Tensor]:
        """Which classes are as if added, bool ``[C]``: a random half, then the other."""
        order = torch.randperm(len(self.names), generator=torch.Generator().manual_seed(self.seed))
        added_C = torch.zeros(len(self.names), dtype=torch.bool)
        added_C[order[:len(self.names) // 2]] = True
        yield added_C
        yield ~added_C

    def logits(self, text: ClassHead, boxes: ClassHead) -> tuple[Tensor, Tensor, Tensor, float]:
        """Of the base classes by text and by boxes ``[N, C]``, of the background ``[N, 0 or 1]``, float64; and what
        they are divided by."""
        text.check_space_of(boxes)
        text, boxes = text.select(self.names), boxes.select(self.names)
        if self.labels_N.min() < 0 and text.background is None:
            raise UserError("calibration: regions of no class, but the text head has no background row; put the "
                            "detector's there, or leave these regions out")
        by_text = text.logits(self.vectors_ND, with_background=text.background is not None).double()
        divisor = 1.0 if self.temperature is None else text.scale * self.temperature
        classes = len(self.names)
        background = by_text[:, classes:] + text.clip_bias  # which a detector leaves out of its classes
        return by_text[:, :classes], boxes.logits(self.vectors_ND).double(), background, divisor

    def loss(self, by_text_NC: Tensor, by_boxes_NC: Tensor, background: Tensor, divisor: float) -> Tensor:
        """Mean cross-entropy with each half of the classes as if added."""
        targets_N = torch.where(self.labels_N < 0, len(self.names), self.labels_N)
        losses = [F.cross_entropy(torch.cat([torch.where(added_C, by_boxes_NC, by_text_NC), background], 1) / divisor,
                                  targets_N) for added_C in self.halves()]
        return torch.stack(losses).mean()


@dataclass(frozen=True)
class Calibration:
    """``gain * logit + offset`` for the logits of added classes.

    Attributes:
        gain: Above 0.
        offset: In logits of the head, which are ``scale`` times a cosine.
        loss_before, loss_after: Cross-entropy on base regions with one half of the classes as if added.
    """

    gain: float
    offset: float
    loss_before: float = math.nan
    loss_after: float = math.nan

    def apply(self, head: ClassHead) -> ClassHead:
        """The head with calibrated logits, to stand beside text; ``scale`` is what it was."""
        if head.norm != "cosine":
            raise UserError(f"calibration: a head with norm {head.norm}; needed is cosine, a linear one becomes it by "
                            "as_cosine()")
        terms, record = head.as_terms(), {"gain": self.gain, "offset": self.offset}
        return head.as_mixed(
            replace(terms, scales=terms.scales * self.gain), bias=head.bias_C().double() * self.gain + self.offset,
            stats={**head.stats, "bias": "own"},
            provenance=tuple({**provenance, "calibration": record} for provenance in head.provenance))


def calibrate(text: ClassHead, boxes: ClassHead, regions: BaseRegions) -> Calibration:
    """The gain and offset for classes by boxes that make base regions most likely.

    Args:
        text: Has the base classes by name, and the detector's background row where there are regions of no class.
        boxes: Has the base classes by boxes, made as the added classes are: same method, same number of shots.

    Raises:
        UserError: A base class that one of the heads lacks; heads of different spaces or widths.
    """
    by_text, by_boxes, background, divisor = regions.logits(text, boxes)
    unit = text.scale
    free = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # log of the gain, offset in units of the cosine
    optimiser = torch.optim.LBFGS([free], max_iter=200, tolerance_grad=1e-9, tolerance_change=1e-12,
                                  line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimiser.zero_grad()
        calibrated = free[0].exp() * by_boxes + unit * free[1]
        value = regions.loss(by_text, calibrated, background, divisor) + _RIDGE * free.square().sum()
        value.backward()
        return value

    optimiser.step(objective)
    gain, offset = float(free[0].detach().exp()), unit * float(free[1].detach())
    with torch.no_grad():
        before = float(regions.loss(by_text, by_boxes, background, divisor))
        after = float(regions.loss(by_text, gain * by_boxes + offset, background, divisor))
    return Calibration(gain, offset, before, after)


@dataclass(frozen=True)
class Choice:
    """The settings of the lowest loss among those tried, the first of equals, and the loss of each."""

    settings: Mapping[str, Any]
    loss: float
    tried: tuple[tuple[Mapping[str, Any], float], ...] = field(repr=False)


def choose(make: Callable[..., ClassHead | Sequence[ClassHead]], grid: Mapping[str, Sequence[Any]], text: ClassHead,
           regions: BaseRegions, calibrated: bool = False) -> Choice:
    """The settings, each of its values with each of the others', with which base classes as if added do best.

    Args:
        make: From settings by keyword to a head of the base classes by boxes, or several whose losses are averaged.
        calibrated: Compare after the best :class:`Calibration` of each, for settings that change the level of scores.

    Raises:
        UserError: An empty grid, and as :func:`calibrate`.
    """
    tried = []
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values))
        heads = make(**settings)
        losses = []
        for head in [heads] if isinstance(heads, ClassHead) else heads:
            if calibrated:
                losses.append(calibrate(text, head, regions).loss_after)
            else:
                losses.append(float(regions.loss(*regions.logits(text, head))))
        tried.append((settings, sum(losses) / len(losses)))
    if not tried:
        raise UserError("calibration: nothing to choose from; give each setting at least one value")
    best, loss = min(tried, key=lambda pair: pair[1])
    return Choice(best, loss, tuple(tried))


KAPPAS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


def choose_kappa(text: ClassHead, boxes_of_shots: Mapping[int, ClassHead], regions: BaseRegions, rule: str = "weights",
                 kappas: Sequence[float] = KAPPAS, calibrated: bool = False) -> Choice:
    """The kappa of :func:`~ovd.fewshot.combination.lam_of_shots` with which text and boxes together do best.

    Args:
        boxes_of_shots: For each number of shots, the base classes from so many boxes.
        rule: Of :func:`~ovd.fewshot.combination.combine`: ``weights`` or ``logits``.
    """
    base_text = replace(text.select(regions.names), background=None)

    def make(kappa: float) -> list[ClassHead]:
        return [combine(base_text, boxes.select(regions.names), rule, lam=lam_of_shots(shots, kappa))
                for shots, boxes in boxes_of_shots.items()]

    return choose(make, {"kappa": kappas}, text, regions, calibrated)
