"""The losses of prompt learning against loops written from their formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd.clip.prompts.losses import MODES, check_mode, pair_weights, prompt_loss
from ovd.errors import UserError

CLASSES = 4


def plain(mode, logits, labels, class_weights, background_weight, prompt):
    """The module's formulas, a pair and a class at a time, in double precision."""
    def log_softmax(row):
        top = max(row)
        total = math.log(sum(math.exp(z - top) for z in row)) + top
        return [z - total for z in row]

    numerator = weights = 0.0
    for row, label, prompt_logit in zip(logits.tolist(), labels.tolist(), prompt.tolist()):
        weight = class_weights[label] if label >= 0 else background_weight
        column = {"mean": sum(row) / len(row), "meanbg": sum(row) / len(row), "max": 1 - max(row),
                  "learn": prompt_logit}.get(mode)
        wide = mode in ("mean", "max", "learn") or (mode == "meanbg" and label < 0)
        chosen = log_softmax([*row, column] if wide else row)
        if label >= 0:
            numerator += weight * -chosen[label]
        elif wide:
            numerator += weight * -chosen[-1]
        elif mode == "soft":
            numerator += weight * -sum(chosen) / len(row)
        elif mode == "hinge":
            numerator += weight * sum(max(0.0, math.exp(z) - 1 / len(row)) for z in chosen)
        else:  # fg_only
            weight = 0.0
        weights += weight
    return numerator / (len(labels) if mode in ("hinge", "meanbg") else weights)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=25, deadline=None)
@given(labels=st.lists(st.integers(-1, CLASSES - 1), min_size=1, max_size=9), seed=st.integers(0, 99))
def test_losses_equal_the_formula(mode, labels, seed):
    if mode == "fg_only" and max(labels) < 0:
        labels = [*labels, 0]
    torch.manual_seed(seed)
    labels_N = torch.tensor(labels)
    logits_NC = 20 * torch.randn(len(labels), CLASSES)
    prompt_N = 20 * torch.randn(len(labels))
    weights = pair_weights(torch.randint(1, 50, (CLASSES,)), 17)
    found = prompt_loss(mode, logits_NC, labels_N, weights, prompt_N)
    wanted = plain(mode, logits_NC, labels_N, weights.class_C.tolist(), weights.background, prompt_N)
    assert float(found) == pytest.approx(wanted, rel=2e-5, abs=1e-6)


def test_a_batch_without_foreground_has_no_loss_in_fg_only():
    weights = pair_weights(torch.ones(CLASSES), 1)
    assert prompt_loss("fg_only", torch.randn(3, CLASSES), torch.full((3,), -1), weights) == 0


def test_soft_background_is_least_where_all_classes_are_as_likely():
    weights = pair_weights(torch.ones(CLASSES), 4)
    logits_NC = torch.zeros(1, CLASSES, requires_grad=True)
    loss = prompt_loss("soft", logits_NC, torch.tensor([-1]), weights)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log(CLASSES))
    assert logits_NC.grad.abs().max() < 1e-7


def test_weights_balance_classes_and_give_background_half():
    weights = pair_weights(torch.tensor([30, 10, 0]), 20)
    assert weights.class_C.tolist() == pytest.approx([60 / (30 * 3), 60 / (10 * 3), 0])
    assert weights.background == pytest.approx(60 / (2 * 20))
    labels_N = torch.tensor([0, 1, -1])
    assert weights.of(labels_N).tolist() == pytest.approx([60 / 90, 2, 1.5])
    assert pair_weights(torch.tensor([5, 5]), 0).background == 0


def test_an_unknown_mode_is_named_with_the_nearest():
    with pytest.raises(UserError, match="soft"):
        check_mode("sof")
