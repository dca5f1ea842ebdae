"""Heads that are fitted to the supports of each episode, all episodes of a block at once, each with its own parameters.

They are the fits of ``ovd.fewshot.sources``: the same starts, batches (by the episode's seed) and steps. The loss is
the sum over episodes of each one's mean cross-entropy, so an episode's gradient is what it would be alone, and SGD
works number by number: a step of the block is a step of every episode. The protocol (Chen et al. 2019): 150 steps on
batches of 4 supports, learning rate 0.01, momentum and dampening 0.9, weight decay 0.001, a fresh head for every
episode.

A gradient of these losses is a sum of supports and of the vectors themselves, which begin as sums of supports or as
zero. So SGD never leaves the supports' span, and it does not depend on the axes: it runs in an orthonormal basis of
that span, 25 numbers a vector for 5-way 5-shot instead of D. The result is the same, up to rounding.

Shapes: E episodes, N classes, K shots, S = N * K supports, B supports of a batch, T steps, Q queries, D width, R width
of a basis.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ovd.fewshot.episodic.tasks import Tasks
from ovd.fewshot.episodic.training_free import cosines_to_supports, with_cache

ITERATIONS, BATCH = 150, 4

Score = Callable[[Tensor, Tensor | None], Tensor]
"""From rows ``[E, B, D]`` and their text logits ``[E, B, N]`` to scores ``[E, B, N]``."""


def linear(tasks: Tasks, *, tau: float = 10.0, lr: float = 0.01, iterations: int = ITERATIONS) -> Tensor:
    """``w_c . q + b_c`` from zero (Baseline, Chen et al. 2019, sec. 3.1); the softmax is of ``tau`` times that."""
    tasks = in_span(tasks)
    weight_END = torch.zeros(len(tasks.numbers), tasks.way, tasks.support_ENKD.shape[-1])
    bias_EN = torch.zeros(weight_END.shape[:2])

    def score(x_EBD: Tensor, _: Tensor | None) -> Tensor:
        return torch.baddbmm(bias_EN[:, None], x_EBD, weight_END.mT)

    fit(tasks, [weight_END, bias_EN], score, tau, lr, iterations)
    return score(tasks.query_EQD, None).detach()


def cosine(tasks: Tasks, *, tau: float = 10.0, lr: float = 0.01, iterations: int = ITERATIONS) -> Tensor:
    """``g_c * cos(q, w_c)`` from the prototypes (Baseline++, Chen et al. 2019, sec. 3.2).

    The length ``g_c`` of each class is learned beside the direction, from 1 (weight normalisation).
    """
    tasks = in_span(tasks)
    direction_END = prototypes(tasks)
    length_EN = torch.ones(direction_END.shape[:2])

    def score(x_EBD: Tensor, _: Tensor | None) -> Tensor:
        return length_EN[:, None] * torch.bmm(x_EBD, F.normalize(direction_END, dim=-1).mT)

    fit(tasks, [direction_END, length_EN], score, tau, lr, iterations)
    return score(tasks.query_EQD, None).detach()


def negative_margin(tasks: Tasks, *, margin: float = -0.01, tau: float = 10.0, lr: float = 0.01,
                    iterations: int = ITERATIONS) -> Tensor:
    """``cos(q, w_c)`` from the prototypes, fitted with a margin on the own class (Liu et al. 2020, eq. 2)."""
    tasks = in_span(tasks)
    direction_END = prototypes(tasks)

    def score(x_EBD: Tensor, _: Tensor | None) -> Tensor:
        return torch.bmm(x_EBD, F.normalize(direction_END, dim=-1).mT)

    fit(tasks, [direction_END], score, tau, lr, iterations, margin)
    return score(tasks.query_EQD, None).detach()


def tip_fitted(tasks: Tasks, *, alpha: float = 1.0, beta: float = 5.5, lr: float = 0.01,
               iterations: int = ITERATIONS) -> Tensor:
    """The Tip cache with keys that begin as the supports and are fitted as directions (Tip-Adapter-F, sec. 3.2)."""
    tasks = in_span(tasks)
    keys_ESD = tasks.support_ESD.clone()

    def score(x_EBD: Tensor, text_EBN: Tensor | None) -> Tensor:
        return with_cache(cosines_to_supports(x_EBD, F.normalize(keys_ESD, dim=-1), tasks.way), text_EBN, alpha, beta)

    fit(tasks, [keys_ESD], score, 1.0, lr, iterations)
    return score(tasks.query_EQD, tasks.text_query_EQN).detach()


def fit(tasks: Tasks, parameters: Sequence[Tensor], score: Score, tau: float, lr: float, iterations: int,
        margin: float = 0.0) -> None:
    """Change the parameters ``[E, ...]`` in place, by the protocol.

    Args:
        tau: Of the softmax of the scores.
        margin: Taken from the score of a support's own class.
    """
    optimizer = torch.optim.SGD([parameter.requires_grad_() for parameter in parameters], lr=lr, momentum=0.9,
                                dampening=0.9, weight_decay=0.001)
    support_ESD, label_S, text_ESN = tasks.support_ESD, tasks.label_S, tasks.text_support_ESN
    episode_E1 = torch.arange(len(support_ESD))[:, None]
    for picked_EB in batches_TEB(tasks, iterations):
        label_EB = label_S[picked_EB]
        text_EBN = None if text_ESN is None else text_ESN[episode_E1, picked_EB]
        scores_EBN = score(support_ESD[episode_E1, picked_EB], text_EBN) - margin * F.one_hot(label_EB, tasks.way)
        logits = (tau * scores_EBN).flatten(0, 1)
        loss = F.cross_entropy(logits, label_EB.flatten(), reduction="sum") / picked_EB.shape[1]
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters)):
            parameter.grad = gradient
        optimizer.step()


def batches_TEB(tasks: Tasks, iterations: int) -> Tensor:
    """The supports of each step: one permutation after the other, cut into batches."""
    count = len(tasks.label_S)
    size = min(BATCH, count)
    permutations = -(-size * iterations // count)

    def order(seed: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        return torch.cat([torch.randperm(count, generator=rng) for _ in range(permutations)])

    order_EM = torch.stack([order(tasks.fit_seed(number)) for number in tasks.numbers])
    return order_EM[:, :size * iterations].unflatten(1, (iterations, size)).transpose(0, 1)


def prototypes(tasks: Tasks) -> Tensor:
    """The unit mean of each class's supports, ``[E, N, D]``."""
    return F.normalize(tasks.support_ENKD.mean(dim=2), dim=-1)


def in_span(tasks: Tasks) -> Tasks:
    """The same tasks in orthonormal bases ``[E, D, R]`` of their supports; as they are where that is no shorter.

    Products of supports, and of supports with queries, stay what they were; of queries only that part is kept.
    """
    if tasks.way * tasks.shot >= tasks.query_EQD.shape[-1]:
        return tasks
    basis_EDR = torch.linalg.qr(tasks.support_ESD.mT)[0]
    support_ESR = torch.bmm(tasks.support_ESD, basis_EDR)
    return replace(tasks, support_ENKD=support_ESR.unflatten(1, (tasks.way, tasks.shot)),
                   query_EQD=torch.bmm(tasks.query_EQD, basis_EDR))
