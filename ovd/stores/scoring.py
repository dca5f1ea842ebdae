"""From region embeddings and class vectors to logits, each class's column independent of the others, to the bit.

Shapes: N regions, D width, C classes, M vectors a class, B classes in a block.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ovd.stores.head_forms import LOG_MEAN_EXP, MAX, MEAN, Terms

NORMS = ("cosine", "linear", "euclid")
REDUCTIONS = ("single", "mean_logit", "max", "exp_sum", "log_mean_exp", "mixed")

# A matrix product of another width may add up in another order, so the columns of a wide one and of a narrow one differ
# in their last bits. Every product here has B columns, the last block padded, whatever C is.
BLOCK = 64


def class_logits(x_ND: Tensor, weights_CMD: Tensor, counts_C: Tensor | None = None, *, norm: str = "cosine",
                 reduce: str = "single", beta: float | None = None, scale: float = 1.0,
                 terms: Terms | None = None) -> Tensor:
    """Logits of each region for each class, float32 ``[N, C]``.

    The similarity ``s`` of a region and a vector is, by ``norm``: the cosine; the inner product; or minus the
    Euclidean distance (ProtoNet). The M similarities of a class become its logit by ``reduce``: ``scale * s`` (single,
    M = 1), ``scale * mean(s)``, ``scale * max(s)``, ``scale * sum(exp(-beta * (1 - s)))`` (Tip-Adapter, eq. 5 to 7), or
    ``log(mean(exp(scale * s)))``: the log of a class's part in the softmax over all vectors, up to the normaliser that
    the classes share (Matching Networks, Vinyals et al. 2016, eq. 1 and 2, averaged over a class's vectors).

    Args:
        x_ND: region embeddings, any floating type; differentiable.
        weights_CMD: class vectors, float32.
        counts_C: how many of the M vectors of each class are in use (the first ones); None for all.
        terms: what ``mixed`` classes do instead, each its own; on the device of the vectors.

    Adding classes leaves the columns of the others bit-identical on a CPU, whatever the forms of the added ones;
    computed in float32 under autocast too.
    """
    classes, vectors, _ = weights_CMD.shape
    longest = [vectors] * classes
    if counts_C is None:
        counts_C = torch.full((classes,), vectors, device=weights_CMD.device)
    elif vectors > 1:
        longest = counts_C.tolist()
    with torch.autocast(x_ND.device.type, enabled=False):
        x_ND = x_ND.float().contiguous()
        if norm == "cosine":
            x_ND = F.normalize(x_ND, dim=-1)
        blocks = []
        for start in range(0, classes, BLOCK):
            block = slice(start, start + BLOCK)
            weights_BMD, counts_B = weights_CMD[block, :max(longest[block])], counts_C[block]
            used = len(counts_B)
            if used < BLOCK:
                weights_BMD = F.pad(weights_BMD, (0, 0, 0, 0, 0, BLOCK - used))
                counts_B = F.pad(counts_B, (0, BLOCK - used), value=1)
            if terms is None:
                logits_NB = _plain(x_ND, weights_BMD, counts_B, norm, reduce, beta, scale) * scale
            else:
                logits_NB = _mixed(x_ND, weights_BMD, counts_B, norm, terms.rows(block))
            blocks.append(logits_NB[:, :used])
        return torch.cat(blocks, dim=1)


def sigmoid(logits: Tensor) -> Tensor:
    """``1 / (1 + exp(-logits))``, in which a number's bits do not depend on where it lies.

    PyTorch computes some functions (sigmoid, pow, logaddexp) otherwise for the last few numbers of a block of memory
    than for the rest of it, so there a class's last bit would depend on how many classes there are. It does not with
    exp, log and log1p.
    """
    return 1 / (1 + torch.exp(-logits))


def independent_probabilities(logits_NK: Tensor, is_reference_K: Tensor) -> Tensor:
    """Softmax over the columns of the reference; each other column c by itself against these, ``exp(l_c) / (exp(l_c) +
    sum of theirs)``. Without a reference, softmax over all. ``[N, K]``.

    No column beside the reference changes another, to the bit on a CPU.
    """
    inside, outside = is_reference_K.nonzero()[:, 0], (~is_reference_K).nonzero()[:, 0]
    if not len(inside):
        return logits_NK.softmax(dim=-1)
    reference = logits_NK.index_select(1, inside)
    others = logits_NK.index_select(1, outside) - reference.logsumexp(dim=-1, keepdim=True)
    together = torch.cat([reference.softmax(dim=-1), sigmoid(others)], dim=1)
    return together.index_select(1, torch.cat([inside, outside]).argsort())


def _plain(x_ND: Tensor, weights_BMD: Tensor, counts_B: Tensor, norm: str, reduce: str, beta: float | None,
           scale: float) -> Tensor:
    result_NB = None
    for index in range(weights_BMD.shape[1]):  # in order, so that a longer list elsewhere changes nothing here
        term_NB = _similarity(x_ND, weights_BMD[:, index].contiguous(), norm)
        if reduce == "exp_sum":
            term_NB = torch.exp(-beta * (1 - term_NB))
        elif reduce == "log_mean_exp":
            term_NB = scale * term_NB
        if result_NB is None:
            result_NB = term_NB
        else:
            merge = {"max": torch.maximum, "log_mean_exp": _log_add_exp}.get(reduce, torch.add)
            result_NB = torch.where(index < counts_B, merge(result_NB, term_NB), result_NB)
    if reduce == "log_mean_exp":
        return (result_NB - counts_B.log()) / scale
    return result_NB / counts_B if reduce == "mean_logit" else result_NB


def _mixed(x_ND: Tensor, weights_BMD: Tensor, counts_B: Tensor, norm: str, terms: Terms) -> Tensor:
    """The same operations on the same numbers as in :func:`_plain`, so that a class's bits are what they are there."""
    padding = BLOCK - len(terms.kinds)
    kinds_B = F.pad(terms.kinds, (0, padding))
    scales_B = F.pad(terms.scales, (0, padding), value=1.0).float()
    mix_BM = F.pad(terms.mix, (0, 0, 0, padding), value=1.0).float()
    betas_BM = F.pad(terms.betas, (0, 0, 0, padding)).float()
    shifts_BM = F.pad(terms.shifts, (0, 0, 0, padding)).float()
    is_lme_B = kinds_B == LOG_MEAN_EXP
    tau_B = torch.where(is_lme_B, betas_BM[:, 0], 1.0)
    kernel_BM = (betas_BM > 0) & ~is_lme_B[:, None]
    result_NB = None
    for index in range(weights_BMD.shape[1]):
        term_NB = _similarity(x_ND, weights_BMD[:, index].contiguous(), norm)
        heat_NB = torch.exp(-betas_BM[:, index] * (1 - term_NB))
        term_NB = torch.where(kernel_BM[:, index], heat_NB, term_NB) * mix_BM[:, index] + shifts_BM[:, index]
        term_NB = term_NB * tau_B
        if result_NB is None:
            result_NB = term_NB
        else:
            merged_NB = result_NB + term_NB
            merged_NB = torch.where(kinds_B == MAX, torch.maximum(result_NB, term_NB), merged_NB)
            merged_NB = torch.where(is_lme_B, _log_add_exp(result_NB, term_NB), merged_NB)
            result_NB = torch.where(index < counts_B, merged_NB, result_NB)
    result_NB = torch.where(kinds_B == MEAN, result_NB / counts_B, result_NB)
    result_NB = torch.where(is_lme_B, (result_NB - counts_B.log()) / tau_B, result_NB)
    return result_NB * scales_B


def _similarity(x_ND: Tensor, weights_BD: Tensor, norm: str) -> Tensor:
    if norm == "euclid":
        return -torch.cdist(x_ND, weights_BD, compute_mode="donot_use_mm_for_euclid_dist")
    return x_ND @ (F.normalize(weights_BD, dim=-1) if norm == "cosine" else weights_BD).T


def _log_add_exp(a_NB: Tensor, b_NB: Tensor) -> Tensor:
    """``log(exp(a) + exp(b))`` with the same bits wherever a class lies (see :func:`sigmoid`)."""
    high_NB = torch.maximum(a_NB, b_NB)
    return high_NB + torch.log1p(torch.exp(torch.minimum(a_NB, b_NB) - high_NB))
