"""Classes whose vectors are fitted to tell the supports apart: Baseline, Baseline++, Negative Margin.

Their settings, beside those of :class:`~ovd.fewshot.sources.fit.Fit`:

- ``base``: a cosine head whose classes, and background row if it has one, compete in the fit. It does not move.
- ``background_BD``: unit rows ``[B, D]`` that show none of the classes, such as proposals beside the boxes.
- ``tau``: of the softmax of the fit. The head's logits are ``scale``, not ``tau``, times the fitted scores.

The protocol's 150 steps of 4 rows are for five classes. Dozens of them need more, ``linear`` first, which starts from
zero: for the 72 base classes of the shapes benchmark by 10 boxes each, it named 75 % of the other boxes with the
protocol and 99.6 % with ``iterations=600, lr=0.1``; the two others 99.7 % with either.

Shapes: N rows, C classes, D embedding width.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovd.errors import UserError
from ovd.fewshot.sources.fit import Fit, Rivals, fit
from ovd.fewshot.sources.supports import Supports
from ovd.stores.class_heads import ClassHead


def linear(supports: Supports, *, base: ClassHead | None = None, background_BD: Tensor | None = None,
           tau: float = 10.0, **protocol: Any) -> ClassHead:
    """``scale * (w . x + b)`` of unit rows x, fitted from zero (Baseline, Chen et al. 2019, sec. 3.1).

    The head is in its cosine form: directions with factors.
    """
    settings = Fit(**protocol)
    weights_CD = torch.zeros(len(supports.names), supports.dim)
    bias_C = torch.zeros(len(supports.names))
    rivals = Rivals.of(supports, base, background_BD)
    fit(supports, lambda x_ND, _: x_ND @ weights_CD.T + bias_C, [weights_CD, bias_C], rivals, settings, tau=tau)
    record = {"tau": tau, **vars(settings), **rivals.record}
    head = supports.head("linear", weights_CD[:, None], record, norm="linear", bias=bias_C.detach() * supports.scale)
    return replace(head, stats={**head.stats, "bias": "own"}).as_cosine()


def cosine(supports: Supports, *, init: ClassHead | None = None, base: ClassHead | None = None,
           background_BD: Tensor | None = None, tau: float = 10.0, **protocol: Any) -> ClassHead:
    """``scale * g_c * cos(x, w_c)`` with a fitted magnitude ``g_c`` of each class, from 1 (Baseline++, Chen et al.
    2019, sec. 3.2; weight normalisation keeps the magnitude apart from the direction).

    Args:
        init: Head of one vector a class, such as text, that the directions start from by name; classes that it lacks,
            or None for all, start from the mean of their vectors.
    """
    settings = Fit(**protocol)
    directions_CD, gains_C = _start(supports, init), torch.ones(len(supports.names))

    def score(x_ND: Tensor, _: Tensor) -> Tensor:
        return gains_C * (x_ND @ F.normalize(directions_CD, dim=1).T)

    rivals = Rivals.of(supports, base, background_BD)
    fit(supports, score, [directions_CD, gains_C], rivals, settings, tau=tau)
    record = {"tau": tau, "init": _name(init), **vars(settings), **rivals.record}
    head = supports.head("cosine", F.normalize(directions_CD.detach(), dim=1)[:, None], record)
    return head.as_mixed(replace(head.as_terms(), mix=gains_C[:, None]))


def negative_margin(supports: Supports, *, margin: float = -0.01, init: ClassHead | None = None,
                    base: ClassHead | None = None, background_BD: Tensor | None = None, tau: float = 10.0,
                    **protocol: Any) -> ClassHead:
    """``scale * cos(x, w_c)``, fitted with a margin on the own class (Negative Margin, Liu et al. 2020, eq. 2).

    Args:
        margin: Taken from the own class's cosine in the fit; 0 at use. Below 0 it leaves the classes of the fit less
            apart, to the good of others.
        init: As for :func:`cosine`.
    """
    if not -1 <= margin <= 1:
        raise UserError(f"negative-margin: margin {margin}, expected -1 to 1, and as a rule a little below 0")
    settings = Fit(**protocol)
    directions_CD, rivals = _start(supports, init), Rivals.of(supports, base, background_BD)
    fit(supports, lambda x_ND, _: x_ND @ F.normalize(directions_CD, dim=1).T, [directions_CD], rivals, settings,
        tau=tau, margin=margin)
    record = {"tau": tau, "margin": margin, "init": _name(init), **vars(settings), **rivals.record}
    return supports.head("negative-margin", F.normalize(directions_CD.detach(), dim=1)[:, None], record)


def _start(supports: Supports, init: ClassHead | None) -> Tensor:
    """Unit directions ``[C, D]`` to start from."""
    directions_CD = F.normalize(supports.means(), dim=1)
    if init is not None:
        supports.check(init, "initial")
        if init.weights.shape[1] != 1:
            raise UserError(f"fit of classes: the initial head has {init.weights.shape[1]} vectors a class, "
                            "needed is one")
        known = {name: row for row, name in enumerate(init.names)}
        for place, name in enumerate(supports.names):
            if name in known:
                directions_CD[place] = F.normalize(init.weights[known[name], 0], dim=0)
    return directions_CD


def _name(init: ClassHead | None) -> str:
    return "prototype" if init is None else "head"
