"""Heads without a fit, for all episodes of a block at once: scores ``[E, Q, N]``, the highest is the answer.

They score as the class heads that ``ovd.fewshot.sources`` makes of one episode's supports. Shapes: E episodes, N
classes, K shots, S = N * K supports, Q queries, D width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ovd.errors import UserError
from ovd.fewshot.episodic.tasks import Tasks


def prototype(tasks: Tasks, *, tau: float = 10.0) -> Tensor:
    """``tau * cos(q, mean_c)`` (Meta-Baseline, Chen et al. 2021, eq. 3); tau changes no answer."""
    means_END = F.normalize(tasks.support_ENKD.mean(dim=2), dim=-1)
    return tau * torch.bmm(tasks.query_EQD, means_END.mT)


def euclidean_prototype(tasks: Tasks) -> Tensor:
    """``-|q - mean_c|`` (ProtoNet, Snell et al. 2017, sec. 2.3, with the distance itself, not its square)."""
    return -torch.cdist(tasks.query_EQD, tasks.support_ENKD.mean(dim=2), compute_mode="donot_use_mm_for_euclid_dist")


def matching(tasks: Tasks, *, tau: float = 100.0) -> Tensor:
    """``log(mean over a class's supports of exp(tau * cos))``.

    The log of MatchingNet's class probability (Vinyals et al. 2016, eq. 1: a softmax over all supports, then the mean
    within each class) up to the softmax's normaliser, which all classes share.
    """
    cosines_EQNK = cosines_to_supports(tasks.query_EQD, tasks.support_ESD, tasks.way)
    return torch.logsumexp(tau * cosines_EQNK, dim=-1) - math.log(tasks.shot)


def tip_cache(tasks: Tasks, *, alpha: float = 1.0, beta: float = 5.5) -> Tensor:
    """``text + alpha * sum over a class's supports of exp(-beta * (1 - cos))`` (Tip-Adapter, eq. 5 to 7).

    Without text classes the text term is left out.
    """
    cosines_EQNK = cosines_to_supports(tasks.query_EQD, tasks.support_ESD, tasks.way)
    return with_cache(cosines_EQNK, tasks.text_query_EQN, alpha, beta)


def text(tasks: Tasks) -> Tensor:
    """The texts alone.

    Raises:
        UserError: No text classes.
    """
    if tasks.text_query_EQN is None:
        raise UserError("the head 'text' needs the classes' texts: name a class head file with --class-head")
    return tasks.text_query_EQN


def cosines_to_supports(x_EBD: Tensor, supports_ESD: Tensor, way: int) -> Tensor:
    """Inner products ``[E, B, N, K]`` of unit rows with unit supports, class by class."""
    return torch.bmm(x_EBD, supports_ESD.mT).unflatten(-1, (way, -1))


def with_cache(cosines_EBNK: Tensor, text_EBN: Tensor | None, alpha: float, beta: float) -> Tensor:
    """Tip-Adapter's logits ``[E, B, N]``."""
    cache_EBN = alpha * torch.exp(-beta * (1 - cosines_EBNK)).sum(dim=-1)
    return cache_EBN if text_EBN is None else text_EBN + cache_EBN
