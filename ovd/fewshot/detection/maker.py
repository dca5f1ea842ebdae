"""The class heads of an evaluation: base classes as they are, and added ones by each method, from each set of shots."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ovd.errors import UserError
from ovd.fewshot.combination import combine, lam_of_shots
from ovd.fewshot.detection.lessons import BaseLessons
from ovd.fewshot.detection.methods import CODES, Method
from ovd.fewshot.detection.trust import TRUSTED
from ovd.fewshot.support_vectors import SupportVectors, first_boxes
from ovd.stores.class_heads import ClassHead

FITTED = ("linear", "cosine", "negative-margin", "tip-f")
# The protocol of few-shot classification, 150 iterations at a rate of 0.01, leaves a linear classifier of many classes
# near zero (of 72 base classes by 10 boxes each it names 75 % of regions; so fitted, 99.6 %).
DETECTOR_FIT = {"iterations": 600, "lr": 0.1}

@dataclass(frozen=True, eq=False)
class SupportFeatures:
    """RoI features of shots, class by class, as a code generator reads them.

    Attributes:
        names: The classes.
        features_SChw, class_of_S: A row of each shot, and its class.
        provenance: For each class, where its shots come from.
        code_head: Makes a head of features, their classes and names (``model.code_head``).
    """

    names: tuple[str, ...]
    features_SChw: Tensor
    class_of_S: Tensor
    provenance: Sequence[Mapping[str, Any]]
    code_head: Callable[..., ClassHead]

    def head(self, k: int) -> ClassHead:
        """The codes of the first ``k`` shots of each class."""
        chosen = torch.cat([(self.class_of_S == label).nonzero()[:k, 0] for label in range(len(self.names))])
        return self.code_head(self.features_SChw[chosen], self.class_of_S[chosen], self.names,
                              [first_boxes(origin, k) for origin in self.provenance])


@dataclass(frozen=True, eq=False)
class HeadMaker:
    """Makes heads of added classes.

    Attributes:
        texts: ``"text"`` and, where asked for, ``"made-up"`` -> the added classes by these words.
        vectors: seed -> the support vectors of most shots, for all sources but codes.
        features: seed -> what codes are made of.
        rivals: The base classes as fitted sources compete with them, and rows of background; None for no competition.
        background_BD: See ``rivals``.
        settings: source -> further settings of it (:func:`ovd.fewshot.sources.from_supports`).
        base: What was learned from base classes: how scores of boxes compare with those of names, and how much k boxes
            weigh beside a name. None for neither.
    """

    texts: Mapping[str, ClassHead] = field(default_factory=dict)
    vectors: Mapping[int, SupportVectors] = field(default_factory=dict)
    features: Mapping[int, SupportFeatures] = field(default_factory=dict)
    rivals: ClassHead | None = None
    background_BD: Tensor | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    base: BaseLessons | None = None

    def added(self, method: Method, k: int = 0, seed: int = 0) -> ClassHead:
        """The added classes by a method, from the first ``k`` shots of the set of ``seed``.

        Raises:
            UserError: A text or shots that were not prepared; parts that cannot be combined.
        """
        if method.source is None:
            return self._text(method.text)
        boxes = self.boxes(method.source, k, seed)
        if self.base is not None:
            boxes = self.base.calibrated(boxes, method.source, k)
        if method.text is None:
            return boxes
        if self.base is not None:
            return self.base.combined(self._text(method.text), boxes, method.source, method.rule, k)
        if method.rule == TRUSTED:
            raise UserError(f"method {method.name}: trust in names is learned from base classes: leave "
                            "--calibration-images at a number above 0, or name another rule")
        return combine(self._text(method.text), boxes, method.rule, lam=lam_of_shots(k))

    def boxes(self, source: str, k: int, seed: int) -> ClassHead:
        """What a source makes of boxes alone."""
        if source == CODES:
            return self.features[seed].head(k)
        settings = dict(self.settings.get(source, {}))
        if source in FITTED:
            settings.setdefault("seed", seed)
            if source != "tip-f":
                settings = {"base": self.rivals, "background_BD": self.background_BD, **DETECTOR_FIT, **settings}
        return self.vectors[seed].first(k).head(source, **settings)

    def _text(self, kind: str) -> ClassHead:
        if kind not in self.texts:
            raise UserError(f"there are no words of the kind {kind!r} for the added classes: this detector knows no "
                            "CLIP, so use methods of boxes alone")
        return self.texts[kind]


def beside(base: ClassHead, added: ClassHead) -> ClassHead:
    """Base classes, then the added ones, each with the bits it had alone."""
    return replace(base, background=None).concat(replace(added, background=None))
