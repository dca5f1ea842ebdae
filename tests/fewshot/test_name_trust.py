"""Trust in names: learned from right and wrong pairs of base classes, applied to pairs never seen."""

import math

import pytest
import torch
import torch.nn.functional as F

from ovd.errors import UserError
from ovd.fewshot.detection.trust import PRIOR, NameTrust, directions
from ovd.stores.class_heads import ClassHead

WIDTH = 32


def pairs(count: int, noise: float = 0.6, seed: int = 0, prefix: str = "base") -> tuple[ClassHead, ClassHead]:
    """Names, and boxes near their names with noise of that length."""
    rng = torch.Generator().manual_seed(seed)
    names = tuple(f"{prefix} {number}" for number in range(count))
    rows = F.normalize(torch.randn(count, WIDTH, generator=rng), dim=1)
    off = noise * F.normalize(torch.randn(count, 3, WIDTH, generator=rng), dim=2)
    counts = torch.randint(1, 4, (count,), generator=rng)
    return ClassHead(names, rows[:, None]), ClassHead(names, rows[:, None] + off, reduce="max", counts=counts)


def test_directions_are_means_of_the_vectors_in_use():
    _, boxes = pairs(5)
    for row, weights, count in zip(directions(boxes).tolist(), boxes.weights.tolist(), boxes.counts.tolist()):
        unit = [[x / math.sqrt(sum(y * y for y in vector)) for x in vector] for vector in weights[:count]]
        total = [sum(column) for column in zip(*unit)]
        length = math.sqrt(sum(x * x for x in total))
        assert row == pytest.approx([x / length for x in total], abs=1e-5)


def test_the_fit_is_the_best_of_all_near_it():
    text, boxes = pairs(20, noise=3.0)
    found = NameTrust.learn(text, boxes)

    def loss(slope: float, threshold: float) -> float:
        right, wrong = [], []
        for i, name in enumerate(directions(text).tolist()):
            for j, box in enumerate(directions(boxes).tolist()):
                logit = slope * (sum(a * b for a, b in zip(name, box)) - threshold)
                (right if i == j else wrong).append(math.log1p(math.exp(-logit if i == j else logit)))
        return sum(right) / len(right) + sum(wrong) / len(wrong)

    even = found.threshold + math.log(PRIOR / (1 - PRIOR)) / found.slope  # where right and wrong are as likely
    best = loss(found.slope, even)
    for slope, threshold in ((1.2, 0.0), (0.8, 0.0), (1.0, 0.03), (1.0, -0.03)):
        assert loss(found.slope * slope, even + threshold) > best - 2e-3


def test_names_that_fit_are_trusted_and_others_are_not():
    found = NameTrust.learn(*pairs(40))
    text, boxes = pairs(40, seed=1, prefix="novel")
    assert min(found.of(text, boxes).values()) > 0.9
    wrong = ClassHead(text.names, text.weights.roll(1, 0))
    assert sum(found.of(wrong, boxes).values()) / 40 < 0.2
    assert max(found.weights(text, boxes, 0.2).values()) < 0.3
    assert sum(found.weights(wrong, boxes, 0.2).values()) / 40 > 0.8


def test_only_names_with_boxes_have_weights_and_lam_1_stays_1():
    text, boxes = pairs(6)
    found = NameTrust.learn(text, boxes)
    assert set(found.of(text, boxes.select(boxes.names[:2]))) == set(boxes.names[:2])
    assert found.of(text.select(text.names[:1]), boxes.select(boxes.names[1:])) == {}
    assert set(found.weights(text, boxes, 1.0).values()) == {1.0}


def test_one_class_teaches_nothing():
    with pytest.raises(UserError, match="two base classes or more"):
        NameTrust.learn(*pairs(1))


def test_boxes_are_recognised_by_names_that_are_not_their_own():
    text, boxes = pairs(40)
    trust = NameTrust.learn(*pairs(30, seed=1, prefix="other"))
    for name in text.names:
        assert trust.like(text, boxes.select([name])) == name
        assert trust.like(text.remove([name]), boxes.select([name])) is None
