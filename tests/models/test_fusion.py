"""Score fusion against the formulas, written out in plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd.models.fusion import background_probability, base_novel_weights, geometric_fusion


def softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    powers = [math.exp(value - top) for value in logits]
    return [power / sum(powers) for power in powers]


def slow_ensemble(text_logits, image_logits, is_base, score_lambda) -> list[float]:
    """ViLD's fusion of one region: text logits end with the background's."""
    text, image = softmax(text_logits)[:-1], softmax(image_logits)
    fused = []
    for p_text, p_image, base in zip(text, image, is_base):
        if base:
            fused.append(p_text ** score_lambda * p_image ** (1 - score_lambda))
        else:
            fused.append(p_text ** (1 - score_lambda) * p_image ** score_lambda)
    return fused


logit = st.floats(-40, 40)  # no probability below float32's normal numbers


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(logit, logit, st.booleans()), min_size=1, max_size=6), logit, st.floats(0, 1))
def test_ensemble_follows_the_formula(classes, background, score_lambda):
    text = [row[0] for row in classes] + [background]
    image, is_base = [row[1] for row in classes], [row[2] for row in classes]
    p_text = torch.tensor([text], dtype=torch.float64).softmax(1)[:, :-1]
    p_image = torch.tensor([image], dtype=torch.float64).softmax(1)
    weights = base_novel_weights(torch.tensor(is_base), score_lambda, 1 - score_lambda)
    expected = torch.tensor([slow_ensemble(text, image, is_base, score_lambda)], dtype=torch.float64)
    assert torch.allclose(geometric_fusion(p_text, p_image, weights), expected, rtol=1e-4, atol=0)
    single = geometric_fusion(p_text.float(), p_image.float(), weights)
    assert single.dtype == torch.float32
    assert torch.isfinite(single).all()
    assert torch.allclose(single.double(), expected, rtol=1e-4, atol=1e-30)


@pytest.mark.parametrize("weight", [0.0, 1 / 3, 1.0])
def test_certainties_are_no_nan(weight):
    first, second = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[0.0, 1.0, 0.0, 1.0]])
    fused = geometric_fusion(first, second, weight)
    assert torch.isfinite(fused).all()
    assert fused[0, 3] == 1
    assert torch.equal(fused, {0.0: second, 1.0: first}.get(weight, torch.tensor([[0.0, 0, 0, 1]])))


def test_half_precision_is_raised_to_float32_first():
    first, second = torch.rand(50, 7).half(), torch.rand(50, 7).bfloat16()
    fused = geometric_fusion(first, second, 0.3)
    assert fused.dtype == torch.float32
    assert torch.equal(fused, geometric_fusion(first.float(), second.float(), 0.3))


def test_objectness_is_fused_with_all_classes_of_its_region():
    scores, objectness = torch.rand(4, 3), torch.rand(4, 1)
    assert torch.allclose(geometric_fusion(scores, objectness, 0.5), (scores * objectness).sqrt(), atol=1e-6)


def test_weights_go_by_the_class():
    weights = base_novel_weights(torch.tensor([True, False, True]), 0.7, 0.2)
    assert weights.tolist() == pytest.approx([0.7, 0.2, 0.7])


def test_fused_probabilities_above_one_leave_no_negative_background():
    """The worst case for lambda 2/3: heads that agree within base and within novel classes, but not on their shares."""
    text, image = torch.tensor([[0.67, 0.33]]), torch.tensor([[0.335, 0.665]])
    fused = geometric_fusion(text, image, base_novel_weights(torch.tensor([True, False]), 2 / 3, 1 / 3))
    assert fused.sum() == pytest.approx(1.058, abs=1e-3)
    assert background_probability(fused).tolist() == [0]
    assert background_probability(torch.tensor([[0.25, 0.5]])).tolist() == [0.25]
    assert torch.isfinite(torch.cat([fused, background_probability(fused)[:, None]], 1).log().softmax(1)).all()


def test_a_class_is_fused_to_the_same_bits_whatever_classes_follow():
    rng = torch.Generator().manual_seed(0)
    first, second = torch.rand(30, 90, generator=rng), torch.rand(30, 90, generator=rng)
    weights = base_novel_weights(torch.arange(90) < 48, 2 / 3, 1 / 3)
    every = geometric_fusion(first, second, weights)
    exact = first.double() ** weights.double() * second.double() ** (1 - weights.double())
    assert torch.allclose(every.double(), exact, rtol=1e-7, atol=0)
    for classes in range(48, 90):
        fewer = geometric_fusion(first[:, :classes].contiguous(), second[:, :classes].contiguous(), weights[:classes])
        assert torch.equal(fewer, every[:, :classes]), classes
