"""From a detector and sets of shots to the metrics of every method, number of shots and seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch.nn.functional as F
from tqdm import tqdm

from ovd.fewshot.detection.base_rows import base_regions
from ovd.fewshot.detection.detector import ShotDetector
from ovd.fewshot.detection.lessons import BaseLessons
from ovd.fewshot.detection.maker import HeadMaker, beside
from ovd.fewshot.detection.methods import CODES, Method
from ovd.fewshot.detection.passes import evaluate_heads
from ovd.fewshot.shots import ShotSet
from ovd.stores.class_heads import ClassHead
from ovd.vocabulary.splits import Split

CALIBRATION_SEED = 20211  # of the shots of base classes; any will do, as long as it stays

DrawBase = Callable[[int, int, frozenset[int]], ShotSet]
"""``(k, seed, ids of images to leave alone)`` to shots of the base classes."""


@dataclass(frozen=True, eq=False)
class Found:
    """What an evaluation found.

    Attributes:
        figures: (method, shots, seed of the shots) -> metrics; 0 shots and seed 0 for methods of words alone.
        lessons: What base classes taught (see :class:`BaseLessons`).
        heads: The vocabulary of each.
    """

    figures: Mapping[tuple[str, int, int], Mapping[str, float]]
    lessons: Sequence[Mapping[str, Any]] = ()
    heads: Mapping[tuple[str, int, int], ClassHead] = field(default_factory=dict)


def evaluate_methods(detector: ShotDetector, methods: Sequence[Method], shots: Sequence[int],
                     sets: Mapping[int, ShotSet], split: Split, *, texts: Mapping[str, ClassHead] | None = None,
                     calibration_images: int = 0, draw_base: DrawBase | None = None,
                     images: int | None = None, base_shots: ShotSet | None = None) -> Found:
    """Evaluate methods on one pass over the images.

    Args:
        sets: seed -> shots of the novel classes, as many as the most of ``shots``.
        texts: kind of words -> the novel classes by these.
        calibration_images: Training images to calibrate on; 0 for no calibration, and no rows of background to fit
            against.
        draw_base: Needed for calibration.
        images: Evaluate the first so many.
        base_shots: Boxes to make the base classes of too; None for what training made them.

    Raises:
        UserError: A method that the detector cannot do; words that it does not know.
    """
    base = detector.base_head(split.base, base_shots)
    maker = head_maker(detector, methods, sets, base, texts or {}, split, shots, calibration_images, draw_base)
    wanted = [(method, k, seed) for method in methods
              for k, seed in ([(0, 0)] if method.source is None else [(k, seed) for k in shots for seed in sets])]
    heads = {}
    for method, k, seed in tqdm(wanted, desc="class heads", unit=" heads", leave=False):
        heads[method.name, k, seed] = beside(base, maker.added(method, k, seed))
    figures = evaluate_heads(detector.model, detector.cfg, heads, images)
    return Found(figures, () if maker.base is None else maker.base.record(), heads)


def head_maker(detector: ShotDetector, methods: Sequence[Method], sets: Mapping[int, ShotSet],
               base: ClassHead | None, texts: Mapping[str, ClassHead], split: Split, shots: Sequence[int],
               calibration_images: int = 0, draw_base: DrawBase | None = None,
               base_detector: ShotDetector | None = None) -> HeadMaker:
    """Everything that the heads of the methods are made of.

    Args:
        base: The base classes; needed for calibration only.
        base_detector: The detector where the images of base shots lie, if they lie elsewhere.
        Others: as of :func:`evaluate_methods`.
    """
    sources = {method.source for method in methods} - {None}
    vectors = {seed: detector.vectors(chosen) for seed, chosen in sets.items()} if sources - {CODES} else {}
    features = {seed: detector.features(chosen) for seed, chosen in sets.items()} if CODES in sources else {}
    plain = HeadMaker(texts, vectors, features)
    classifier = getattr(getattr(detector.model, "roi_head", None), "classifier", None)
    if classifier is None or not sources or not calibration_images:
        return plain  # without CLIP's space, training made scores comparable
    background = classifier.background
    rivals = base if background is None else replace(base, background=F.normalize(background.detach().cpu(), dim=0))
    regions, used = base_regions(detector.model, detector.cfg, calibration_images, classifier.temperature_test)
    if background is None:
        known = regions.labels_N >= 0
        regions = replace(regions, vectors_ND=regions.vectors_ND[known], labels_N=regions.labels_N[known])
    chosen = draw_base(max(shots), CALIBRATION_SEED, used)
    maker = replace(plain, rivals=rivals, background_BD=regions.vectors_ND[regions.labels_N < 0])
    base_detector = base_detector or detector
    own = HeadMaker(vectors={0: base_detector.vectors(chosen)} if vectors else {},
                    features={0: base_detector.features(chosen)} if features else {},
                    background_BD=maker.background_BD)
    lessons = BaseLessons(rivals, regions, lambda source, k: own.boxes(source, k, 0), shots)
    return replace(maker, base=lessons)
