"""Heads that are fitted to the supports of each episode, all episodes of a block at once, each with its own parameters.

The loss is the sum over episodes of each one's mean cross-entropy, so an episode's gradient is what it would be alone,
and SGD works number by number: a step of the block is a step of every episode. The protocol (Chen et al. 2019, and
MMFewShot after it): 150 steps of SGD on batches of 4 supports, learning rate 0.01, momentum and dampening 0.9, weight
decay 0.001, a fresh head for every episode; a pass over the supports is in random order.

Shapes: E episodes, N classes, K shots, S = N * K supports, B supports of a batch, T steps, Q queries, D width, R
width of a basis.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovd.errors import UserError, nearest
from ovd.fewshot.episodic.tasks import Tasks
from ovd.fewshot.episodic.training_free import cosines_to_supports, with_cache

ITERATIONS, BATCH = 150, 4
INITS = ("random", "prototypes")

Logits = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""From rows ``[E, B, D]``, their classes ``[E, B]`` (for margins) and their text logits to logits ``[E, B, N]``."""


def linear(tasks: Tasks, *, lr: float = 0.01, iterations: int = ITERATIONS, init: str = "random") -> Tensor:
    """``w_c . q + b_c`` (Baseline, Chen et al. 2019, sec. 3.1)."""
    tasks, weight_END = in_span(tasks, initial_weights(tasks, init))
    bias_EN = torch.zeros(weight_END.shape[:2])

    def logits(x_EBD: Tensor, label_EB: Tensor | None, text_EBN: Tensor | None) -> Tensor:
        return torch.baddbmm(bias_EN[:, None], x_EBD, weight_END.mT)

    fit(tasks, [weight_END, bias_EN], logits, lr, iterations)
    return logits(tasks.query_EQD, None, None).detach()


def cosine(tasks: Tasks, *, scale: float = 5.0, lr: float = 0.01, iterations: int = ITERATIONS,
           init: str = "random") -> Tensor:
    """``scale * g_c * cos(q, v_c)`` (Baseline++, Chen et al. 2019, sec. 3.1), with a length ``g_c`` of each class.

    The length is learned beside the direction (weight normalisation); it begins as that of ``v_c``.
    """
    tasks, direction_END = in_span(tasks, initial_weights(tasks, init))
    length_EN = direction_END.norm(dim=-1)

    def logits(x_EBD: Tensor, label_EB: Tensor | None, text_EBN: Tensor | None) -> Tensor:
        return scale * length_EN[:, None] * torch.bmm(x_EBD, F.normalize(direction_END, dim=-1).mT)

    fit(tasks, [direction_END, length_EN], logits, lr, iterations)
    return logits(tasks.query_EQD, None, None).detach()


def negative_margin(tasks: Tasks, *, scale: float = 5.0, margin: float = -0.01, lr: float = 0.01,
                    iterations: int = ITERATIONS, init: str = "random") -> Tensor:
    """``scale * (cos(q, w_c) - margin * [c is the class])`` in the fit (Liu et al. 2020, eq. 3), no margin after it."""
    tasks, weight_END = in_span(tasks, initial_weights(tasks, init))

    def logits(x_EBD: Tensor, label_EB: Tensor | None, text_EBN: Tensor | None) -> Tensor:
        cosines_EBN = torch.bmm(x_EBD, F.normalize(weight_END, dim=-1).mT)
        if label_EB is not None:
            cosines_EBN = cosines_EBN - margin * F.one_hot(label_EB, tasks.way)
        return scale * cosines_EBN

    fit(tasks, [weight_END], logits, lr, iterations)
    return logits(tasks.query_EQD, None, None).detach()


def tip_fitted(tasks: Tasks, *, alpha: float = 1.0, beta: float = 5.5, lr: float = 0.01,
               iterations: int = ITERATIONS) -> Tensor:
    """The Tip cache with keys that begin as the supports and are fitted (Tip-Adapter-F, sec. 3.2)."""
    tasks, _ = in_span(tasks, tasks.support_ESD[:, :0])
    keys_ESD = tasks.support_ESD.clone()

    def logits(x_EBD: Tensor, label_EB: Tensor | None, text_EBN: Tensor | None) -> Tensor:
        return with_cache(cosines_to_supports(x_EBD, F.normalize(keys_ESD, dim=-1), tasks.way), text_EBN, alpha, beta)

    fit(tasks, [keys_ESD], logits, lr, iterations)
    return logits(tasks.query_EQD, None, tasks.text_query_EQN).detach()


def fit(tasks: Tasks, parameters: Sequence[Tensor], logits: Logits, lr: float, iterations: int) -> None:
    """Change the parameters ``[E, ...]`` in place, by the protocol."""
    optimizer = torch.optim.SGD([parameter.requires_grad_() for parameter in parameters], lr=lr, momentum=0.9,
                                dampening=0.9, weight_decay=0.001)
    support_ESD, label_S, text_ESN = tasks.support_ESD, tasks.label_S, tasks.text_support_ESN
    episode_E1 = torch.arange(len(support_ESD))[:, None]
    for picked_EB in batches(tasks, iterations):
        label_EB = label_S[picked_EB]
        text_EBN = None if text_ESN is None else text_ESN[episode_E1, picked_EB]
        found_EBN = logits(support_ESD[episode_E1, picked_EB], label_EB, text_EBN)
        loss = F.cross_entropy(found_EBN.flatten(0, 1), label_EB.flatten(), reduction="sum") / picked_EB.shape[1]
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters)):
            parameter.grad = gradient
        optimizer.step()


def batches(tasks: Tasks, iterations: int) -> list[Tensor]:
    """The supports of each step, T times long ``[E, B]``; the last batch of a pass may be smaller."""
    supports = len(tasks.label_S)
    passes = math.ceil(iterations / math.ceil(supports / BATCH))
    ordered = np.tile(np.arange(supports), (passes, 1))
    order_EPS = torch.from_numpy(np.stack([rng.permuted(ordered, axis=1) for rng in tasks.generators()]))
    return [part for of_pass in order_EPS.unbind(1) for part in of_pass.split(BATCH, dim=1)][:iterations]


def in_span(tasks: Tasks, vectors_EVD: Tensor) -> tuple[Tasks, Tensor]:
    """The same tasks and vectors ``[E, V, R]`` in orthonormal bases of what supports and vectors span; R <= D.

    Products with supports, queries and each other stay what they were; of the queries only that part is kept.
    """
    spanning_EWD = torch.cat([tasks.support_ESD, vectors_EVD], dim=1)
    if spanning_EWD.shape[1] >= spanning_EWD.shape[2]:
        return tasks, vectors_EVD.clone()
    basis_EDR = torch.linalg.qr(spanning_EWD.mT)[0]
    support_ESR = torch.bmm(tasks.support_ESD, basis_EDR)
    inside = replace(tasks, support_ENKD=support_ESR.unflatten(1, (tasks.way, tasks.shot)),
                     query_EQD=torch.bmm(tasks.query_EQD, basis_EDR))
    return inside, torch.bmm(vectors_EVD, basis_EDR)


def initial_weights(tasks: Tasks, init: str) -> Tensor:
    """``[E, N, D]``: ``random`` as a linear layer's, uniform to 1 / sqrt(D); or the unit ``prototypes``."""
    if init not in INITS:
        raise UserError(f"no start {init!r} of a fitted head{nearest(init, INITS)}")
    if init == "prototypes":
        return F.normalize(tasks.support_ENKD.mean(dim=2), dim=-1)
    shape = (tasks.way, tasks.support_ENKD.shape[-1])
    bound = 1 / math.sqrt(shape[1])
    drawn = [np.random.default_rng([tasks.seed, number, 2]).uniform(-bound, bound, shape) for number in tasks.numbers]
    return torch.from_numpy(np.stack(drawn)).float()
