"""Scores of added classes beside those of text: what was planted is found, and novel data has no way in."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ovd.errors import UserError
from ovd.fewshot.calibration import BaseRegions, Calibration, calibrate, choose, choose_kappa
from ovd.fewshot.combination import combine, lam_of_shots
from ovd.fewshot.sources import from_supports
from ovd.stores.class_heads import ClassHead

DIM, SCALE = 16, 20.0
NAMES = tuple(f"base {i}" for i in range(8))
SPACE = {"clip": "sha256:1"}


def world(seed=0, rows=400, background=60):
    """A text head that is right, regions whose labels are drawn from its softmax, and their labels."""
    rng = torch.Generator().manual_seed(seed)
    directions = torch.randn(len(NAMES), DIM, generator=rng)
    text = ClassHead(NAMES, directions[:, None], scale=SCALE, stats=SPACE,
                     background=torch.randn(DIM, generator=rng) if background else None)
    nearest = torch.randint(0, len(NAMES), (rows,), generator=rng)
    x = torch.cat([directions[nearest] + 2.5 * torch.randn(rows, DIM, generator=rng),
                   torch.randn(background, DIM, generator=rng)])
    logits = text.logits(x, with_background=background > 0) * 0.5
    labels = torch.multinomial(logits.softmax(1), 1, generator=rng)[:, 0]
    return text, BaseRegions(x, torch.where(labels == len(NAMES), -1, labels), NAMES, temperature=2 / SCALE)


@pytest.mark.parametrize("gain, offset", [(2.5, -9.0), (0.3, 4.0), (1.0, 0.0)])
@pytest.mark.parametrize("background", [60, 0])
def test_a_planted_gain_and_offset_are_found(gain, offset, background):
    text, regions = world(rows=10_000, background=20 * background)
    planted = Calibration(gain, offset).apply(replace(text, background=None))
    found = calibrate(text, planted, regions)
    assert found.gain == pytest.approx(1 / gain, rel=0.02)
    assert found.offset == pytest.approx(-offset / gain, abs=0.1 / gain)
    assert found.loss_after <= found.loss_before and found.apply(planted).scale == SCALE
    torch.testing.assert_close(found.apply(planted).logits(regions.vectors_ND), text.logits(regions.vectors_ND),
                               rtol=0.03, atol=0.2)
    assert calibrate(text, planted, regions) == found, "the same again"


@pytest.mark.parametrize("method", ["prototype", "tip", "matching", "negative-margin"])
def test_calibration_lowers_the_cross_entropy_by_the_slow_sum(method):
    text, regions = world()
    supports = text.weights[:, 0].repeat_interleave(3, 0) + torch.randn(24, DIM,
                                                                        generator=torch.Generator().manual_seed(3))
    boxes = from_supports(supports, torch.arange(8).repeat_interleave(3), NAMES, method, scale=SCALE, stats=SPACE)
    found = calibrate(text, boxes, regions)

    def slow(head: ClassHead) -> float:
        by_text, by_boxes = text.logits(regions.vectors_ND, True).tolist(), head.logits(regions.vectors_ND).tolist()
        total = 0.0
        for added in regions.halves():
            for t, b, label in zip(by_text, by_boxes, regions.labels_N.tolist()):
                row = [(b if added[c] else t)[c] / 2 for c in range(8)] + [t[8] / 2]
                total += math.log(sum(map(math.exp, row))) - row[label if label >= 0 else 8]
        return total / len(regions.labels_N) / 2

    assert found.loss_before == pytest.approx(slow(boxes), rel=1e-4)
    assert found.loss_after == pytest.approx(slow(found.apply(boxes)), rel=1e-4)
    assert found.loss_after < found.loss_before
    for gain, offset in ((1.1, 0.0), (0.9, 0.0), (1.0, 0.4), (1.0, -0.4)):  # a minimum
        assert slow(Calibration(found.gain * gain, found.offset + offset).apply(boxes)) > found.loss_after


def test_the_bias_of_a_clip_with_sigmoids_changes_nothing_beside_the_background():
    """A detector leaves it out of its classes and has none for its background."""
    text, regions = world()
    boxes = Calibration(2.0, 3.0).apply(replace(text, background=None))
    without = calibrate(text, boxes, regions)
    stats = {**SPACE, "scores": "sigmoid", "clip_bias": -16.0}
    biased = replace(boxes, bias=boxes.bias - 16, stats=stats)
    found = calibrate(replace(text, bias=[-16.0] * len(NAMES), stats=stats), biased, regions)
    assert found.loss_before == pytest.approx(without.loss_before, rel=1e-4)
    assert found.gain == pytest.approx(without.gain, rel=0.01)
    torch.testing.assert_close(found.apply(biased).logits(regions.vectors_ND) + 16,
                               without.apply(boxes).logits(regions.vectors_ND), rtol=0.01, atol=0.1)


@pytest.mark.parametrize("method", ["prototype", "tip", "matching"])
def test_a_calibrated_head_is_gain_times_logit_plus_offset_beside_a_text_that_stays(method):
    rng = torch.Generator().manual_seed(1)
    head = from_supports(torch.randn(6, DIM, generator=rng), torch.tensor([0, 0, 0, 1, 1, 1]), ("a", "b"), method,
                         scale=SCALE, stats=SPACE)
    text, x = world()[0], torch.randn(5, DIM, generator=rng)
    calibrated = Calibration(0.5, -3.0).apply(head)
    torch.testing.assert_close(calibrated.logits(x), 0.5 * head.logits(x) - 3, rtol=1e-5, atol=1e-5)
    assert calibrated.provenance[0]["calibration"] == {"gain": 0.5, "offset": -3.0}
    assert torch.equal(text.concat(calibrated).logits(x)[:, :8], text.logits(x))
    twice = Calibration(2.0, 6.0).apply(calibrated)
    torch.testing.assert_close(twice.logits(x), head.logits(x), rtol=1e-5, atol=1e-4)


def test_novel_classes_have_no_part():
    """Whatever the heads say about other classes, and none of it can be labelled."""
    text, regions = world()
    boxes = Calibration(2.0, 1.0).apply(replace(text, background=None))
    novel = ClassHead(("novel",), torch.randn(1, 1, DIM) * 9, scale=SCALE, stats=SPACE)
    assert calibrate(text.concat(novel), boxes.concat(novel), regions) == calibrate(text, boxes, regions)
    with pytest.raises(UserError, match="labels from 0 to 8, but there are 8 base classes"):
        BaseRegions(torch.randn(9, DIM), torch.arange(9), NAMES)


def test_each_class_is_once_as_text_and_once_as_if_added():
    first, second = world()[1].halves()
    assert torch.equal(first, ~second) and int(first.sum()) == 4
    other = replace(world()[1], seed=1)
    assert not torch.equal(next(other.halves()), first)


def test_regions_that_say_nothing_give_a_finite_calibration():
    text, regions = world(rows=1, background=0)
    found = calibrate(text, replace(text, background=None), replace(regions, labels_N=torch.tensor([0])))
    assert 0 < found.gain < 1e4 and math.isfinite(found.offset)


def test_the_lowest_loss_of_a_grid_is_chosen_the_first_of_equals():
    text, regions = world()
    plain = replace(text, background=None)
    picked = choose(lambda gain, offset, unused: Calibration(gain, offset).apply(plain),
                    {"gain": [0.2, 1.0, 3.0], "offset": [-5.0, 0.0, 2.0], "unused": [1, 2]}, text, regions)
    assert picked.settings == {"gain": 1.0, "offset": 0.0, "unused": 1} and len(picked.tried) == 18
    assert picked.loss == min(loss for _, loss in picked.tried)
    best = choose(lambda gain: Calibration(gain, 1.0).apply(plain), {"gain": [0.2, 3.0]}, text, regions, True)
    assert best.tried[0][1] == pytest.approx(best.tried[1][1], rel=1e-3), "the level of scores is settled for each"
    with pytest.raises(UserError, match="nothing to choose from"):
        choose(lambda gain: plain, {"gain": []}, text, regions)


@pytest.mark.parametrize("rule", ["weights", "logits"])
def test_kappa_follows_how_far_boxes_can_be_trusted(rule):
    text, regions = world()
    noisy = replace(text, weights=text.weights + 1.5 * torch.randn(8, 1, DIM,
                                                                   generator=torch.Generator().manual_seed(2)))
    good_boxes, bad_boxes = replace(text, background=None), replace(noisy, background=None)
    trusting = choose_kappa(noisy, {1: good_boxes, 5: good_boxes}, regions, rule)
    doubting = choose_kappa(text, {1: bad_boxes, 5: bad_boxes}, regions, rule)
    assert trusting.settings["kappa"] < doubting.settings["kappa"]
    kappa, loss = trusting.settings["kappa"], 0.0
    for shots in (1, 5):
        both = combine(replace(noisy, background=None), good_boxes, rule, lam=lam_of_shots(shots, kappa))
        targets = torch.where(regions.labels_N < 0, 8, regions.labels_N)
        by_text = noisy.logits(regions.vectors_ND, True)
        for added in regions.halves():
            logits = torch.cat([torch.where(added, both.logits(regions.vectors_ND), by_text[:, :8]), by_text[:, 8:]], 1)
            loss += float(F.cross_entropy(logits / 2, targets)) / 4
    assert trusting.loss == pytest.approx(loss, rel=1e-4)


def test_input_that_cannot_calibrate_is_refused_in_one_line():
    text, regions = world()
    x, labels = regions.vectors_ND, regions.labels_N
    boxes = replace(text, background=None)
    for make, message in (
            (lambda: BaseRegions(x, labels[:3], NAMES), r"labels of shape \[3\]"),
            (lambda: BaseRegions(x, labels, NAMES[:1]), "two base classes or more"),
            (lambda: BaseRegions(x, torch.full_like(labels, -1), NAMES), "no region of a base class"),
            (lambda: BaseRegions(x * torch.nan, labels, NAMES), "NaN"),
            (lambda: calibrate(boxes, boxes, regions), "the text head has no background row"),
            (lambda: calibrate(text, boxes.remove(["base 3"]), regions), "no class 'base 3'"),
            (lambda: calibrate(text, replace(boxes, stats={"clip": "other"}), regions), "different CLIPs"),
            (lambda: Calibration(1.0, 0.0).apply(replace(boxes, norm="linear")), "norm linear; needed is cosine")):
        with pytest.raises(UserError, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)
