"""What base classes teach about classes from boxes, learned once and kept with the model.

Rows of names are a little farther from the regions than vectors of boxes are, so scores of the two do not compare; and
a name may not fit its boxes. Base classes have both, so they tell: :class:`ovd.fewshot.detection.lessons.BaseLessons`.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from mmengine.config import Config
from torch import nn
from tqdm import tqdm

from ovd.errors import UserError, nearest
from ovd.fewshot.combination import RULES, combine, lam_of_shots
from ovd.fewshot.detection.base_rows import base_regions
from ovd.fewshot.detection.lessons import BaseLessons
from ovd.fewshot.detection.trust import TRUSTED
from ovd.fewshot.detector_vectors import detector_vectors
from ovd.fewshot.shots import ShotSet
from ovd.stores.class_heads import ClassHead

ALL_RULES = (TRUSTED, *RULES)
DrawBase = Callable[[Sequence[str], int, frozenset[int]], ShotSet]
"""``(base classes, k, ids of images to leave alone)`` to shots of them."""


class Lessons:
    """What is known of a detector.

    Args:
        record: As :func:`learn` returns it; empty if nothing is known.
    """

    def __init__(self, record: Sequence[Mapping[str, Any]] = ()) -> None:
        self._base = BaseLessons.of_record(record)

    def head(self, words: ClassHead | None, boxes: ClassHead | None, k: int, rule: str, method: str) -> ClassHead:
        """One class from words, from ``k`` boxes, or from both, with scores that compare with those of names.

        Where the lessons have other numbers of boxes, those of the nearest count. A method of which nothing is known is
        left as it is, with a warning.

        Raises:
            UserError: An unknown rule; neither words nor boxes; forms that cannot be combined.
        """
        if rule not in ALL_RULES:
            raise UserError(f"unknown rule {rule!r}{nearest(rule, ALL_RULES)}")
        if boxes is None:
            return combine(words, None)
        known = self._base.shots_of(method, None if words is None else rule)
        if not known:
            warnings.warn(f"nothing was learned of how {method} classes compare with names ({rule}): scores are as "
                          "they come; ovd export-model learns it", stacklevel=4)
            return combine(words, boxes, "weights" if rule == TRUSTED else rule, lam=lam_of_shots(k))
        shots = _nearest(known, k)
        boxes = self._base.calibrated(boxes, method, shots)
        return boxes if words is None else self._base.combined(words, boxes, method, rule, shots)

    def like(self, names: ClassHead, boxes: ClassHead, k: int, method: str) -> str | None:
        """The name that says what the ``k`` boxes of a class show; None where none does, or nothing is known of it."""
        known = self._base.shots_of(method)
        return self._base.like(names, boxes, method, _nearest(known, k)) if known else None


def _nearest(shots: Sequence[int], k: int) -> int:
    return min(shots, key=lambda one: abs(one - k))


def learn(model: nn.Module, cfg: Config, base: ClassHead, draw_base: DrawBase, image_root: str, *,
          shots: Sequence[int] = (1, 2, 3, 5, 10), methods: Sequence[str] = ("prototype",),
          rules: Sequence[str] = ALL_RULES, images: int = 200) -> list[dict[str, Any]]:
    """Let base classes play added ones, and record what they teach.

    Args:
        model: A detector in CLIP's space, in eval mode.
        cfg: Its config; its training images are looked at.
        base: The base classes by their names.
        image_root: The folder of the images of their boxes.
        images: How many training images.

    Raises:
        UserError: A config without training images; too few boxes; methods that are no way from boxes alone.
    """
    classifier = model.roi_head.classifier
    background = classifier.background
    text = replace(base, background=None if background is None else F.normalize(background.detach().cpu(), dim=0))
    regions, used = base_regions(model, cfg, images, classifier.temperature_test)
    if background is None:
        known = regions.labels_N >= 0
        regions = replace(regions, vectors_ND=regions.vectors_ND[known], labels_N=regions.labels_N[known])
    chosen = draw_base(base.names, max(shots), used)
    vectors = detector_vectors(model, cfg, chosen, image_root, next(model.parameters()).device)
    lessons = BaseLessons(text, regions, lambda source, k: vectors.first(k).head(source), tuple(shots))
    wanted = [(method, k, rule) for method in methods for k in shots for rule in rules]
    for method, k, rule in tqdm(wanted, desc="lessons", unit=" fits", leave=False):
        lessons.settle(method, k, [rule])
    return lessons.record()

