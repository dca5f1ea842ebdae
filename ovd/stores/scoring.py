"""From region embeddings and class vectors to logits, each class's column independent of the others, to the bit.

Shapes: N regions, D width, C classes, M vectors a class, B classes in a block.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

NORMS = ("cosine", "linear", "euclid")
REDUCTIONS = ("single", "mean_logit", "max", "exp_sum")

# A matrix product of another width may add up in another order, so the columns of a wide one and of a narrow one differ
# in their last bits. Every product here has B columns, the last block padded, whatever C is.
BLOCK = 64


def class_logits(x_ND: Tensor, weights_CMD: Tensor, counts_C: Tensor | None = None, *, norm: str = "cosine",
                 reduce: str = "single", beta: float | None = None, scale: float = 1.0) -> Tensor:
    """Logits of each region for each class, float32 ``[N, C]``.

    The similarity ``s`` of a region and a vector is, by ``norm``: the cosine; the inner product; or minus the
    Euclidean distance (ProtoNet). The M similarities of a class become its logit by ``reduce``: ``scale * s`` (single,
    M = 1), ``scale * mean(s)``, ``scale * max(s)``, or ``scale * sum(exp(-beta * (1 - s)))`` (Tip-Adapter, eq. 5 to 7).

    Args:
        x_ND: region embeddings, any floating type; differentiable.
        weights_CMD: class vectors, float32.
        counts_C: how many of the M vectors of each class are in use (the first ones); None for all.

    Adding classes leaves the columns of the others bit-identical on a CPU; computed in float32 under autocast too.
    """
    classes, vectors, _ = weights_CMD.shape
    if counts_C is None:
        counts_C = torch.full((classes,), vectors, device=weights_CMD.device)
    with torch.autocast(x_ND.device.type, enabled=False):
        x_ND = x_ND.float().contiguous()
        if norm == "cosine":
            x_ND = F.normalize(x_ND, dim=-1)
        blocks = []
        for start in range(0, classes, BLOCK):
            weights_BMD, counts_B = weights_CMD[start:start + BLOCK], counts_C[start:start + BLOCK]
            used = len(counts_B)
            if used < BLOCK:
                weights_BMD = F.pad(weights_BMD, (0, 0, 0, 0, 0, BLOCK - used))
                counts_B = F.pad(counts_B, (0, BLOCK - used), value=1)
            blocks.append((_reduced(x_ND, weights_BMD, counts_B, norm, reduce, beta) * scale)[:, :used])
        return torch.cat(blocks, dim=1)


def _reduced(x_ND: Tensor, weights_BMD: Tensor, counts_B: Tensor, norm: str, reduce: str,
             beta: float | None) -> Tensor:
    result_NB = None
    for index in range(weights_BMD.shape[1]):  # in order, so that a longer list elsewhere changes nothing here
        term_NB = _similarity(x_ND, weights_BMD[:, index].contiguous(), norm)
        if reduce == "exp_sum":
            term_NB = torch.exp(-beta * (1 - term_NB))
        if result_NB is None:
            result_NB = term_NB
        else:
            merged = torch.maximum(result_NB, term_NB) if reduce == "max" else result_NB + term_NB
            result_NB = torch.where(index < counts_B, merged, result_NB)
    return result_NB / counts_B if reduce == "mean_logit" else result_NB


def _similarity(x_ND: Tensor, weights_BD: Tensor, norm: str) -> Tensor:
    if norm == "euclid":
        return -torch.cdist(x_ND, weights_BD, compute_mode="donot_use_mm_for_euclid_dist")
    return x_ND @ (F.normalize(weights_BD, dim=-1) if norm == "cosine" else weights_BD).T
