"""Focal loss (Lin et al., 2017, eq. 5) of a sigmoid or a softmax, and its gradient, element by element.

Logarithms stop at that of the smallest normal float32, as in mmcv. They are taken from the logits where mmcv takes them
from probabilities in the input's format, which are 1 from a logit of 17 in float32 (of 8 in float16): there mmcv's
loss of a negative jumps to 87, this one stays at the logit. A weight is of the target's class; rows whose target is no
class (background) have weight 1.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ovd.ops.precision import at_least_float32

_TINY = torch.finfo(torch.float32).tiny


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``output`` with the loss of C independent classes.

    Args:
        input: [N, C] logits.
        target: int64 [N], the class, or C for none.
        weight: [C] by the target's class, or empty.
        output: [N, C].
        gamma: how much easy examples are played down.
        alpha: weight of positives; negatives have ``1 - alpha``.
    """
    logits = at_least_float32(input)
    positive = -alpha * torch.sigmoid(-logits).pow(gamma) * _log_sigmoid(logits)
    negative = -(1 - alpha) * torch.sigmoid(logits).pow(gamma) * _log_sigmoid(-logits)
    output.copy_(torch.where(_is_target(target, logits), positive, negative) * _of_target(weight, target)[:, None])


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``grad_input`` [N, C] with the derivative of each loss by its logit; arguments as in the forward pass."""
    logits = at_least_float32(input)
    p, q = torch.sigmoid(logits), torch.sigmoid(-logits)
    positive = -alpha * q.pow(gamma) * (q - gamma * p * _log_sigmoid(logits))
    negative = -(1 - alpha) * p.pow(gamma) * (gamma * q * _log_sigmoid(-logits) - p)
    grad_input.copy_(torch.where(_is_target(target, logits), positive, negative) * _of_target(weight, target)[:, None])


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``output`` [N] with the loss of one class among C.

    Args:
        input: [N, C] probabilities, the softmax of the logits.
        target: int64 [N], the class; rows with a negative one have loss 0.
        weight: [C] by the target's class, or empty.
        output: [N].
        gamma: how much easy examples are played down.
        alpha: weight of all.
    """
    p = _probability(at_least_float32(input), target)
    loss = -alpha * (1 - p).pow(gamma) * p.clamp(min=_TINY).log()
    output.copy_((loss * _of_target(weight, target)).masked_fill(target < 0, 0))


def softmax_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``grad_input`` [N, C] with the derivative of each row's loss by its logits.

    Arguments as in the forward pass; ``buff`` [N] receives the derivative by the target's log probability.
    """
    probabilities = at_least_float32(input)
    p = _probability(probabilities, target)
    easiness = (1 - p).clamp(min=_TINY).pow(gamma - 1) * p * p.clamp(min=_TINY).log()
    by_log = alpha * (gamma * easiness - (1 - p).pow(gamma)) * _of_target(weight, target)
    by_log = by_log.masked_fill(target < 0, 0)
    buff.copy_(by_log)
    grad_input.copy_(by_log[:, None] * (_is_target(target, probabilities).to(p.dtype) - probabilities))


def _log_sigmoid(logits: Tensor) -> Tensor:
    return F.logsigmoid(logits).clamp(min=math.log(_TINY))


def _is_target(target: Tensor, rows: Tensor) -> Tensor:
    """Which elements of [N, C] belong to their row's target."""
    return target[:, None] == torch.arange(rows.shape[1], device=rows.device)


def _of_target(weight: Tensor, target: Tensor) -> Tensor:
    """The weight of each row's target class, [N]."""
    if not weight.numel():
        return torch.ones(len(target), device=target.device)
    known = (target >= 0) & (target < len(weight))
    return torch.where(known, at_least_float32(weight)[torch.where(known, target, 0)], 1)


def _probability(probabilities: Tensor, target: Tensor) -> Tensor:
    """The probability of each row's target, [N]; of class 0 where the target is negative."""
    return probabilities.gather(1, target.clamp(min=0)[:, None])[:, 0]
