"""mmcv.ops.sigmoid_focal_loss and softmax_focal_loss against autograd through the paper's equation 5."""

import pytest
import torch
from mmcv.ops import SigmoidFocalLoss, SoftmaxFocalLoss, sigmoid_focal_loss, softmax_focal_loss
from torch.nn import functional as F

CLASSES = 4


def plain_sigmoid(logits, target, gamma, alpha, weight):
    one_hot = F.one_hot(target, CLASSES + 1)[:, :CLASSES].to(logits.dtype)
    p = logits.sigmoid()
    p_t = p * one_hot + (1 - p) * (1 - one_hot)
    alpha_t = alpha * one_hot + (1 - alpha) * (1 - one_hot)
    loss = -alpha_t * (1 - p_t) ** gamma * p_t.log()
    return loss if weight is None else loss * torch.cat([weight, weight.new_ones(1)])[target][:, None]


def plain_softmax(logits, target, gamma, alpha, weight):
    p_t = logits.softmax(1).gather(1, target.clamp(min=0)[:, None])[:, 0]
    loss = -alpha * (1 - p_t) ** gamma * p_t.log()
    if weight is not None:
        loss = loss * weight[target]
    return torch.where(target >= 0, loss, 0)


@pytest.fixture
def logits(random):
    return torch.randn(7, CLASSES, generator=random, dtype=torch.float64) * 3


@pytest.mark.parametrize("gamma, alpha", [(2.0, 0.25), (0.0, 0.5), (1.0, 0.25), (0.5, 0.75)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_sigmoid_focal_loss_equals_the_formula(logits, gamma, alpha, weighted, reduction):
    target = torch.tensor([0, 3, 4, 1, 4, 2, 2])  # 4 is the background
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64) if weighted else None
    ours, plain = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = sigmoid_focal_loss(ours, target, gamma, alpha, weight, reduction)
    expected = plain_sigmoid(plain, target, gamma, alpha, weight)
    if reduction != "none":
        expected = expected.sum() / (len(target) if reduction == "mean" else 1)  # mean over rows, not over elements
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad)


@pytest.mark.parametrize("gamma, alpha", [(2.0, 0.25), (0.0, 0.5), (1.0, 1.0), (0.5, 0.75)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_softmax_focal_loss_equals_the_formula(logits, gamma, alpha, weighted, reduction):
    target = torch.tensor([0, 3, -1, 1, 0, 2, 2])  # -1 is ignored
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64) if weighted else None
    ours, plain = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = softmax_focal_loss(ours, target, gamma, alpha, weight, reduction)
    expected = plain_softmax(plain, target, gamma, alpha, weight).sum() / (len(target) if reduction == "mean" else 1)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, plain.grad)


def test_focal_losses_gradcheck(logits):
    target = torch.tensor([0, 3, 2, 1, 0, 2, 2])
    leaf = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal_loss(x, target, 2.0, 0.25, None, "none"), (leaf,))
    assert torch.autograd.gradcheck(lambda x: softmax_focal_loss(x, target, 2.0, 0.25, None, "mean"), (leaf,))


def test_sigmoid_focal_loss_stays_exact_where_probabilities_round_to_one():
    logits = torch.tensor([[20.0, -20.0], [50.0, -50.0]])
    losses = sigmoid_focal_loss(logits, torch.tensor([1, 2]), 2.0, 0.25, None, "none")
    torch.testing.assert_close(losses, torch.tensor([[0.75 * 20, 0.25 * 20], [0.75 * 50, 0]]), rtol=1e-4, atol=1e-6)


def test_masked_logits_give_finite_losses_and_gradients():
    """Logits of masked classes are the smallest number there is, or minus infinity."""
    for low in (torch.finfo(torch.float32).min, -torch.inf):
        logits = torch.tensor([[0.5, low], [low, 1.0]], requires_grad=True)
        loss = sigmoid_focal_loss(logits, torch.tensor([0, 2]), 2.0, 0.25, None, "sum")
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()


def test_certain_predictions_give_finite_gradients_at_any_gamma():
    for gamma in (0.0, 0.5, 2.0):
        logits = torch.tensor([[200.0, 0.0], [-200.0, 0.0]], requires_grad=True)
        softmax_focal_loss(logits, torch.tensor([0, 0]), gamma, 0.25, None, "sum").backward()
        assert logits.grad.isfinite().all()
        torch.testing.assert_close(logits.grad[0], torch.zeros(2))


def test_empty_batches_have_zero_loss():
    target = torch.zeros(0, dtype=torch.int64)
    for loss in (SigmoidFocalLoss(2.0, 0.25, reduction="sum"), SoftmaxFocalLoss(2.0, 0.25, reduction="sum")):
        assert loss(torch.zeros(0, CLASSES), target) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_focal_losses_in_half_precision(logits, dtype, autocast):
    half, target = logits.to(dtype), torch.tensor([0, 3, 2, 1, 0, 2, 2])
    for function, tolerance in ((sigmoid_focal_loss, 0.01), (softmax_focal_loss, 0.05)):
        leaf, full = half.clone().requires_grad_(), half.float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = function(leaf, target, 2.0, 0.25, None, "sum")
        expected = function(full, target, 2.0, 0.25, None, "sum")
        loss.backward()
        expected.backward()
        torch.testing.assert_close(loss.float(), expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(leaf.grad.float(), full.grad, rtol=tolerance, atol=tolerance)
