"""Classes that support vectors define by distance alone, without a fit.

Shapes: C classes, M vectors a class, D embedding width.
"""

import math
from dataclasses import replace

import torch

from ovd.errors import UserError, nearest
from ovd.fewshot.sources.supports import Supports
from ovd.stores.class_heads import ClassHead


def prototype(supports: Supports, *, norm: str = "cosine") -> ClassHead:
    """The mean of a class's unit vectors.

    Args:
        norm: ``"cosine"``: ``scale * cos(x, mean)`` (Meta-Baseline, Chen et al. 2021, eq. 3). ``"euclid"``:
            ``-scale * |x - mean|`` (ProtoNet, Snell et al. 2017, eq. 2, with the distance itself, not its square).
    """
    if norm not in ("cosine", "euclid"):
        raise UserError(f"prototype: unknown norm {norm!r}{nearest(norm, ('cosine', 'euclid'))}")
    return supports.head("prototype", supports.means()[:, None], {"norm": norm}, norm=norm)


def matching(supports: Supports, *, tau: float | None = None) -> ClassHead:
    """``scale * log(mean(exp(tau * cos))) / tau`` over a class's vectors.

    With ``tau = scale`` it is the log of the mean, within the class, of a softmax over the vectors of all classes, up
    to what all classes share (Matching Networks, Vinyals et al. 2016, eq. 1 and 2, without full-context embeddings).

    Args:
        tau: ``scale`` if None (Matching Networks' implementations take 100). A large one looks at the nearest vector, a
            small one at the mean.
    """
    if tau is not None and not 0 < tau < math.inf:
        raise UserError(f"matching: tau {tau}, expected a number above 0")
    lists_CMD, counts_C = supports.lists()
    head = supports.head("matching", lists_CMD, {"tau": tau or supports.scale}, reduce="log_mean_exp", counts=counts_C)
    if tau is None or tau == supports.scale:
        return head
    terms = head.as_terms()
    return head.as_mixed(replace(terms, betas=torch.full_like(terms.betas, tau)))
