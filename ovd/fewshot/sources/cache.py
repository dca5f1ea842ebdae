"""Classes as caches of support vectors beside their names: Tip-Adapter, without and with a fit.

Shapes: S support vectors, N rows, C classes, M vectors a class, D embedding width.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovd.errors import UserError
from ovd.fewshot.sources.fit import Fit, Rivals, fit
from ovd.fewshot.sources.supports import Supports
from ovd.stores.class_heads import ClassHead
from ovd.stores.head_forms import SUM, Terms


def tip(supports: Supports, *, text: ClassHead | None = None, alpha: float = 1.0, beta: float = 5.5) -> ClassHead:
    """``scale * cos(x, text) + alpha * sum(exp(-beta * (1 - cos(x, v))))`` over a class's vectors v (Tip-Adapter, Zhang
    et al. 2022, eq. 5 to 7).

    Args:
        text: Head of one vector a class, by name; a class that it lacks, or None for all, is its cache alone.
        alpha: How much the cache counts beside the text, in logits.
        beta: How fast a vector's part falls with the distance.
    """
    _check(alpha, beta)
    record = {"alpha": alpha, "beta": beta}
    return _head("tip", supports, *supports.lists(), _Names.of(supports, text), record)


def tip_f(supports: Supports, *, text: ClassHead | None = None, alpha: float = 1.0, beta: float = 5.5,
          base: ClassHead | None = None, background_BD: Tensor | None = None, tau: float | None = None,
          **protocol: Any) -> ClassHead:
    """:func:`tip` with the cache's vectors fitted (Tip-Adapter-F, sec. 3.2), as directions, from the support vectors.

    Args:
        base, background_BD: As in :mod:`ovd.fewshot.sources.fitted`.
        tau: Of the softmax of the fit; ``scale`` if None, then the fit is by the logits as they are used.
        protocol: Of :class:`Fit`.
    """
    settings, tau = Fit(**protocol), supports.scale if tau is None else tau
    _check(alpha, beta)
    names, rivals = _Names.of(supports, text), Rivals.of(supports, base, background_BD)
    keys_SD, owner_SC = supports.vectors_SD.clone(), F.one_hot(supports.class_of_S, len(supports.names)).float()

    def score(x_ND: Tensor, _: Tensor) -> Tensor:
        heat_NS = torch.exp(-beta * (1 - x_ND @ F.normalize(keys_SD, dim=1).T))
        return x_ND @ names.text_CD.T * names.factor + alpha / supports.scale * (heat_NS @ owner_SC)

    fit(supports, score, [keys_SD], rivals, settings, tau=tau)
    record = {"alpha": alpha, "beta": beta, "tau": tau, **vars(settings), **rivals.record}
    return _head("tip-f", supports, *Supports(keys_SD, supports.class_of_S, supports.names).lists(), names, record)


@dataclass(frozen=True, eq=False)
class _Names:
    """The text part of the classes: unit rows ``[C, D]``, 0 where there is none; its logit's factor over the scale of
    the supports; its bias beyond theirs ``[C]``."""

    text_CD: Tensor
    has_C: Tensor
    factor: float
    bias_C: Tensor

    @classmethod
    def of(cls, supports: Supports, text: ClassHead | None) -> "_Names":
        classes = len(supports.names)
        text_CD, has_C, bias_C = torch.zeros(classes, supports.dim), torch.zeros(classes).bool(), torch.zeros(classes)
        if text is None:
            return cls(text_CD, has_C, 1.0, bias_C)
        supports.check(text, "text")
        if text.reduce != "single":
            raise UserError(f"cache of classes: the text head has the form {text.reduce}, needed is one vector a class")
        rows = {name: row for row, name in enumerate(text.names)}
        for place, name in enumerate(supports.names):
            if name in rows:
                text_CD[place], has_C[place] = F.normalize(text.weights[rows[name], 0], dim=0), True
                if text.bias is not None:
                    bias_C[place] = text.bias[rows[name]] - (supports.bias or 0.0)
        return cls(text_CD, has_C, text.scale / supports.scale, bias_C)


def _check(alpha: float, beta: float) -> None:
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not 0 < value < math.inf:
            raise UserError(f"cache of classes: {name} {value}, expected a number above 0")


def _head(method: str, supports: Supports, keys_CMD: Tensor, counts_C: Tensor, names: _Names,
          record: dict[str, Any]) -> ClassHead:
    """Each class's text vector, if it has one, and then its cache, as a mixed head."""
    classes, vectors, dim = keys_CMD.shape
    length = vectors + int(names.has_C.any())
    weights_CMD, mix_CM = torch.zeros(classes, length, dim), torch.ones(classes, length, dtype=torch.float64)
    betas_CM = torch.zeros(classes, length, dtype=torch.float64)
    for label in range(classes):
        first = int(names.has_C[label])
        cache = slice(first, first + int(counts_C[label]))
        weights_CMD[label, :first], mix_CM[label, :first] = names.text_CD[label], names.factor
        weights_CMD[label, cache] = keys_CMD[label, :int(counts_C[label])]
        mix_CM[label, cache], betas_CM[label, cache] = record["alpha"] / supports.scale, record["beta"]
    terms = Terms(torch.full((classes,), SUM), torch.full((classes,), supports.scale, dtype=torch.float64), mix_CM,
                  betas_CM)
    form = {"bias": names.bias_C} if names.bias_C.any() else {}
    return supports.head(method, weights_CMD, {**record, "text": int(names.has_C.sum())}, reduce="mixed", terms=terms,
                         counts=counts_C + names.has_C, **form)
