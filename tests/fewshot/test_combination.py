"""Text and boxes as one class: each rule against its formula, classes of one source as they were."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd.errors import UserError
from ovd.fewshot.combination import RULES, combine, lam_of_shots
from ovd.fewshot.sources import from_supports
from ovd.stores.class_heads import ClassHead

DIM = 16
NAMES = ("cat", "dog", "owl", "elk")
SPACE = {"clip": "sha256:1"}


def text_head(names=NAMES, seed=0, **form) -> ClassHead:
    rng = torch.Generator().manual_seed(seed)
    form = {"stats": SPACE, "scale": 40.0, **form}
    return ClassHead(tuple(names), torch.randn(len(names), 1, DIM, generator=rng) * 3, **form)


def box_head(method: str, names=("owl", "fox", "cat"), seed=5, **more) -> ClassHead:
    rng = torch.Generator().manual_seed(seed)
    classes = torch.tensor([0, 1, 1, 2, 2, 2])
    return from_supports(torch.randn(6, DIM, generator=rng), classes, names, method, scale=40.0, stats=SPACE, **more)


def mean_head(**form) -> ClassHead:
    """Cosines to three vectors a class, averaged."""
    return ClassHead(("owl", "fox", "cat"), torch.randn(3, 3, DIM, generator=torch.Generator().manual_seed(7)),
                     scale=40.0, reduce="mean_logit", counts=torch.tensor([3, 1, 2]), stats=SPACE,
                     provenance=({"shots": 3}, {"shots": 1}, {"shots": 2}), **form)


X = torch.randn(9, DIM, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("boxes", [box_head("prototype"), box_head("tip"), box_head("matching"), mean_head(),
                                   box_head("cosine", iterations=5)],
                         ids=["prototype", "tip", "matching", "mean", "cosine"])
def test_classes_of_one_source_are_taken_as_they_are(boxes):
    text = text_head()
    rule = "logits" if boxes.reduce == "mixed" else "max"
    if boxes.reduce == "log_mean_exp":
        boxes = boxes.remove(["owl", "cat"])
    both = combine(text, boxes, rule, lam=0.5 if rule == "logits" else None)
    assert both.names == (*NAMES, "fox") and both.space == "sha256:1" and both.scale == 40
    found = both.logits(X)
    for name in both.names:
        if name not in text.names or name not in boxes.names:
            expected = (text if name in text.names else boxes).select([name]).logits(X)
            assert torch.equal(found[:, [both.names.index(name)]], expected)
    assert combine(text, None) is text and combine(None, boxes) is boxes


@settings(max_examples=20, deadline=None)
@given(lam=st.floats(0, 1), bias=st.booleans())
def test_blended_weights_are_unit_blends_of_directions(lam, bias):
    text, boxes = text_head(bias=[1.0, 2.0, 3.0, 4.0] if bias else None), box_head("prototype")
    both = combine(text, boxes, "weights", lam=lam)
    assert both.reduce == "single"
    for name in ("cat", "owl"):
        a, b = (F.normalize(h.select([name]).weights[0, 0].double(), dim=0) for h in (text, boxes))
        mix = F.normalize((1 - lam) * a + lam * b, dim=0)
        expected = 40 * F.normalize(X.double(), dim=1) @ mix
        if bias:
            expected = expected + (1 - lam) * {"cat": 1.0, "owl": 3.0}[name]
        torch.testing.assert_close(both.select([name]).logits(X)[:, 0].double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("boxes", [box_head("prototype"), box_head("tip"), mean_head(),
                                   box_head("tip", text=text_head()), box_head("cosine", iterations=9),
                                   box_head("linear", iterations=9), mean_head(bias=[1.0, 2.0, 3.0])],
                         ids=["prototype", "tip", "mean", "tip+text", "cosine", "linear", "bias"])
@pytest.mark.parametrize("lam, alpha", [(0.3, None), ({"cat": 0.1, "owl": 1.0}, None), (None, 2.5)])
def test_blended_logits_are_blends_of_logits(boxes, lam, alpha):
    text = text_head()
    both = combine(text, boxes, "logits", lam=lam, alpha=alpha)
    for name in ("cat", "owl"):
        share = lam[name] if isinstance(lam, dict) else lam
        a, b = (1 - share, share) if alpha is None else (1, alpha)
        expected = a * text.select([name]).logits(X) + b * boxes.select([name]).logits(X)
        torch.testing.assert_close(both.select([name]).logits(X), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("boxes", [box_head("prototype"), mean_head(), replace(mean_head(), reduce="max"),
                                   box_head("cosine", iterations=9), box_head("linear", iterations=9),
                                   replace(mean_head(bias=[1.0, -2.0, 3.0]), reduce="max")],
                         ids=["prototype", "mean", "max", "cosine", "linear", "bias"])
@pytest.mark.parametrize("bias", [None, [1.0, 2.0, 3.0, 4.0]])
def test_the_maximum_is_of_both_logits(boxes, bias):
    text = text_head(bias=bias)
    both = combine(text, boxes, "max")
    for name in ("cat", "owl"):
        expected = torch.maximum(text.select([name]).logits(X), boxes.select([name]).logits(X))
        torch.testing.assert_close(both.select([name]).logits(X), expected, rtol=1e-4, atol=1e-4)
    again = combine(both, replace(boxes, weights=boxes.weights.flip(2)), "max").select(["owl"]).logits(X)
    third = replace(boxes, weights=boxes.weights.flip(2)).select(["owl"]).logits(X)
    torch.testing.assert_close(again, torch.maximum(both.select(["owl"]).logits(X), third), rtol=1e-4, atol=1e-4)


def test_boxes_count_the_more_the_more_there_are():
    assert lam_of_shots(0) == 0 and lam_of_shots(2, 2.0) == 0.5 and lam_of_shots(30, 2.0) > 0.9
    text, boxes = text_head(), box_head("prototype")
    both = combine(text, boxes, "weights", kappa=1.5)
    for name, shots in (("owl", 1), ("cat", 3)):
        expected = combine(text, boxes, "weights", lam=shots / (shots + 1.5)).select([name])
        assert torch.equal(both.select([name]).weights, expected.weights)
        assert both.select([name]).provenance[0]["weights"] == [1 - shots / (shots + 1.5), shots / (shots + 1.5)]
    with pytest.raises(UserError, match="kappa is above 0"):
        lam_of_shots(1, 0)


@pytest.mark.parametrize("rule", RULES)
def test_full_weight_on_one_side_is_that_side(rule):
    text, boxes = text_head(), box_head("prototype").select(["owl", "cat"])
    if rule == "max":
        same = combine(text, text, rule)
        torch.testing.assert_close(same.logits(X), text.logits(X))
        return
    torch.testing.assert_close(combine(text, boxes, rule, lam=0.0).logits(X), text.logits(X))
    torch.testing.assert_close(combine(text, boxes, rule, lam=1.0).select(boxes.names).logits(X), boxes.logits(X))


def test_the_background_is_the_texts():
    text, boxes = text_head(background=torch.ones(DIM)), replace(box_head("prototype"), background=torch.arange(DIM))
    assert torch.equal(combine(text, boxes, "weights").background, torch.ones(DIM))
    assert torch.equal(combine(replace(text, background=None), boxes, "logits").background, torch.arange(DIM).float())


@pytest.mark.parametrize("boxes, rule, more, message", [
    (box_head("prototype"), "sum", {}, "unknown rule 'sum'"),
    (box_head("prototype"), "weights", {"alpha": 1.0}, "alpha 1.0 is for the rule logits"),
    (box_head("prototype"), "weights", {"lam": 1.5}, "lam 1.5 of class 'cat'"),
    (box_head("prototype"), "weights", {"lam": {"cat": 1.0}}, "no entry for class 'owl'"),
    (replace(mean_head(), provenance=()), "weights", {}, "'cat' do not say how many they are; give lam"),
    (box_head("tip"), "weights", {}, "'cat' is a cache, .* rule weights has no place for; take the rule logits"),
    (box_head("tip"), "max", {}, "'cat' is a cache, .* take the rule logits"),
    (box_head("matching"), "logits", {}, "'cat' is the maximum or log-mean-exp .* make it a prototype"),
    (box_head("matching"), "weights", {}, "'cat' is the maximum or log-mean-exp"),
    (box_head("matching"), "max", {}, "'cat' is the maximum or log-mean-exp"),
    (replace(mean_head(), reduce="max"), "logits", {}, "'cat' is the maximum"),
    (box_head("prototype", norm="euclid"), "weights", {}, "norm euclid"),
    (replace(box_head("prototype"), stats={"clip": "other"}), "weights", {}, "different CLIPs"),
    (replace(box_head("prototype"), stats={"space": "fcos:1"}), "logits", {}, "different embedding spaces"),
    (None, "max", {"text": None}, "neither is given"),
])
def test_what_does_not_go_together_is_refused_by_class(boxes, rule, more, message):
    more = dict(more)
    text = more.pop("text", text_head())
    with pytest.raises(UserError, match=message) as caught:
        combine(text, boxes, rule, **more)
    assert "\n" not in str(caught.value)


def test_one_vector_has_a_place_in_every_rule():
    """A class of one shot is no list, whatever its method."""
    rows = torch.randn(2, DIM, generator=torch.Generator().manual_seed(2))
    one = from_supports(rows, torch.tensor([0, 1]), ("owl", "cat"), "matching", scale=40.0, stats=SPACE)
    for rule in RULES:
        both = combine(text_head(), one, rule, lam=None if rule == "max" else 0.5)
        assert torch.isfinite(both.logits(X)).all() and math.isclose(both.scale, 40.0)
