"""The losses of prompt learning: cross-entropy on foreground, and seven ways to treat background (DetPro, sec. 3.3).

Legend: N pairs of a batch, C base classes; ``z_nc = cos(region n, text c) / T``, ``p_n = softmax over c of z_n``,
``w_c`` the class weights, ``w_bg`` the background's, ``w_y`` that of a pair's own label.

The paper describes ``soft`` and ``learn``; the other names are options of its released trainer, whose sums are followed
here, as the paper says nothing about them.

- ``soft``: ``(sum_fg w_y CE(z, y) + w_bg sum_bg CE(z, uniform)) / sum_n w_y``. Background shall be like no base class:
  its target is 1 / C for each. The paper sums foreground and background without weights; the weights and the common
  denominator are the trainer's.
- ``hinge``: ``(sum_fg w_y CE(z, y) + w_bg sum_bg sum_c max(0, p_c - 1 / C)) / N``. Divided by the number of pairs, not
  by their weights.
- ``mean``: a column ``z_bg = mean_c z_c`` more, then ``sum_n w_y CE([z, z_bg], y) / sum_n w_y``.
- ``meanbg``: the column counts for background only: ``(sum_fg w_y CE(z, y) + w_bg sum_bg CE([z, z_bg], bg)) / N``.
- ``max``: as ``mean`` with ``z_bg = 1 - max_c z_c``. The 1 is beside logits, not cosines: at T = .01 it is small.
- ``learn``: as ``mean`` with ``z_bg = cos(region, text of the background prompt) / T``, a sentence of learned vectors
  only. Open in the paper: whether it has words; here it has a full stop.
- ``fg_only``: ``sum_fg w_y CE(z, y) / sum_fg w_y``.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovd.errors import UserError, nearest

MODES = ("soft", "hinge", "mean", "meanbg", "max", "learn", "fg_only")
BACKGROUND = -1  # label of a pair that is of no class


@dataclass(frozen=True)
class Weights:
    """What a pair counts: ``class_C`` by its class, ``background`` for background."""

    class_C: Tensor
    background: float

    def of(self, labels_N: Tensor) -> Tensor:
        """``w_y`` of every pair, ``[N]``."""
        return torch.where(labels_N >= 0, self.class_C[labels_N.clamp(min=0)], self.background)


def pair_weights(counts_C: Tensor, negatives: int) -> Weights:
    """``w_c = 1 / f_c`` with ``f_c = count_c / N * C``, and ``w_bg = 1 / (2 N_neg / N)``; N is all pairs.

    A class without pairs has weight 0, which nothing uses.
    """
    total = int(counts_C.sum()) + negatives
    frequency_C = counts_C.double() / max(total, 1) * len(counts_C)
    class_C = torch.where(counts_C > 0, 1 / frequency_C, 0.0).float()
    return Weights(class_C, total / (2 * negatives) if negatives else 0.0)


def check_mode(mode: str) -> None:
    """UserError for a loss that there is not."""
    if mode not in MODES:
        raise UserError(f"no prompt loss {mode!r}{nearest(mode, MODES)}")


def prompt_loss(mode: str, logits_NC: Tensor, labels_N: Tensor, weights: Weights,
                background_N: Tensor | None = None) -> Tensor:
    """The loss of a batch, as the module's docstring says.

    Args:
        logits_NC: ``cos / T`` to the base classes.
        labels_N: Class, or :data:`BACKGROUND`.
        background_N: Logits of the learned background prompt (``learn``).
    """
    classes = logits_NC.shape[1]
    fg_N = labels_N >= 0
    weight_N = weights.of(labels_N)
    if mode in ("mean", "max", "learn"):
        if mode == "mean":
            background_N = logits_NC.mean(dim=1)
        elif mode == "max":
            background_N = 1 - logits_NC.amax(dim=1)
        every_NK = torch.cat([logits_NC, background_N[:, None]], dim=1)
        targets_N = torch.where(fg_N, labels_N, classes)
        return (weight_N * F.cross_entropy(every_NK, targets_N, reduction="none")).sum() / weight_N.sum()
    foreground = (weight_N[fg_N] * F.cross_entropy(logits_NC[fg_N], labels_N[fg_N], reduction="none")).sum()
    if mode == "fg_only":
        return foreground / weight_N[fg_N].sum().clamp(min=torch.finfo(weight_N.dtype).tiny)
    others_BC = logits_NC[~fg_N]
    if mode == "soft":
        background = -F.log_softmax(others_BC, dim=1).mean(dim=1).sum()
        return (foreground + weights.background * background) / weight_N.sum()
    if mode == "hinge":
        background = (others_BC.softmax(dim=1) - 1 / classes).clamp(min=0).sum()
    else:  # meanbg
        mean_B = others_BC.mean(dim=1)
        background = (torch.cat([others_BC, mean_B[:, None]], dim=1).logsumexp(dim=1) - mean_B).sum()
    return (foreground + weights.background * background) / len(labels_N)
