"""Distillation: the size of the loss, its mean, its warm-up, and batches without regions."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd.models.losses import RegionDistillationLoss


def unit_rows(rows: int, width: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_weight_half_is_256_times_the_mean_at_width_512():
    student, teacher = unit_rows(7, 512, 0), unit_rows(7, 512, 1)
    loss = RegionDistillationLoss(weight=0.5, warmup=0)(student, teacher)
    assert torch.isclose(loss, 256 * F.l1_loss(student, teacher))


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 9), width=st.integers(1, 40), weight=st.floats(0.1, 3), seed=st.integers(0, 999))
def test_loss_is_the_sum_over_the_width_and_the_mean_over_rows(rows, width, weight, seed):
    student, teacher = unit_rows(rows, width, seed), unit_rows(rows, width, seed + 1)
    slow = 0.0
    for ours, theirs in zip(student.tolist(), teacher.tolist()):
        slow += weight * sum(abs(a - b) for a, b in zip(ours, theirs)) / rows
    assert float(RegionDistillationLoss(weight, warmup=0)(student, teacher)) == pytest.approx(slow, rel=1e-5, abs=1e-6)


def test_half_precision_targets_are_compared_in_float32():
    student, teacher = unit_rows(4, 16, 0), unit_rows(4, 16, 1).half()
    loss = RegionDistillationLoss(0.5, warmup=0)(student, teacher)
    assert loss.dtype == torch.float32
    assert torch.isclose(loss, 0.5 * (student - teacher.float()).abs().sum() / 4)


def test_warmup_is_linear_and_counts_training_iterations_only():
    student, teacher = unit_rows(3, 8, 0), unit_rows(3, 8, 1)
    full = float(RegionDistillationLoss(2.0, warmup=0)(student, teacher))
    loss = RegionDistillationLoss(2.0, warmup=4)
    loss.eval()
    assert float(loss(student, teacher)) == pytest.approx(full / 4)
    loss.train()
    factors = [float(loss(student, teacher)) / full for _ in range(6)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_warmup_goes_on_after_a_resume():
    student, teacher = unit_rows(3, 8, 0), unit_rows(3, 8, 1)
    first = RegionDistillationLoss(1.0, warmup=10)
    for _ in range(3):
        first(student, teacher)
    resumed = RegionDistillationLoss(1.0, warmup=10)
    resumed.load_state_dict(first.state_dict())
    assert resumed(student, teacher) == first(student, teacher)


def test_no_regions_give_a_zero_that_keeps_the_graph():
    parameter = torch.ones(0, 8, requires_grad=True)
    loss = RegionDistillationLoss()(parameter * 2, torch.zeros(0, 8))
    loss.backward()
    assert loss.item() == 0
    assert parameter.grad is not None
