"""The fit of added classes on their support vectors, against classes and a background that do not move.

Shapes: S support vectors, B background rows, N rows of a step, C added classes, R rivals, D embedding width.

Scores here are in units of the cosine: a head's logits over its scale. They are multiplied by ``tau`` for the softmax.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from ovd.errors import UserError
from ovd.fewshot.sources.supports import Supports
from ovd.stores.class_heads import ClassHead


@dataclass(frozen=True)
class Fit:
    """Stochastic gradient descent; the values are those at meta-test of Baseline, Baseline++ and Negative Margin.

    (Chen et al. 2019; Liu et al. 2020: 150 iterations with 4 support vectors each.)
    """

    iterations: int = 150
    lr: float = 0.01
    momentum: float = 0.9
    dampening: float = 0.9
    weight_decay: float = 0.001
    batch: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for f in fields(self):
            value, least = getattr(self, f.name), 1 if f.name == "batch" else 0
            if not isinstance(value, (int, float)) or not least <= value < math.inf:
                raise UserError(f"fit of classes: {f.name} {value!r}, expected a number from {least} on")
        for name in ("iterations", "batch", "seed"):
            if getattr(self, name) != int(getattr(self, name)):
                raise UserError(f"fit of classes: {name} {getattr(self, name)!r}, expected a whole number")


@dataclass(frozen=True, eq=False)
class Rivals:
    """What the added classes compete with. Nothing of it is part of the result.

    Attributes:
        background_BD: Unit rows that show none of the added classes; may be empty.
        of_supports_SR: Scores of the support vectors for the base classes, and last for the base head's background row
            if it has one.
        of_background_BR: Likewise for the background rows.
        learned: Whether the background needs a row of its own, since there are background rows and no row for them.
        record: How many there are, for the provenance.
    """

    background_BD: Tensor
    of_supports_SR: Tensor
    of_background_BR: Tensor
    learned: bool
    record: Mapping[str, int]

    @classmethod
    def of(cls, supports: Supports, base: ClassHead | None, background_BD: Tensor | None) -> "Rivals":
        """Of a base head, whose classes that are among the added ones stay out, and of background rows.

        Raises:
            UserError: A base head of another space, width or norm; background rows of another width, or with NaN.
        """
        if background_BD is None:
            background_BD = torch.zeros(0, supports.dim)
        background_BD = torch.as_tensor(background_BD).detach().to("cpu", torch.float32)
        if background_BD.ndim != 2 or background_BD.shape[1] != supports.dim:
            raise UserError(f"fit of classes: background rows of shape {list(background_BD.shape)}, expected "
                            f"[B, {supports.dim}]")
        if not torch.isfinite(background_BD).all():
            raise UserError("fit of classes: the background rows have NaN or infinity; embed them again")
        rows = supports.vectors_SD, F.normalize(background_BD, dim=1)
        scores = [x_ND.new_zeros(len(x_ND), 0) for x_ND in rows]
        has_row = base is not None and base.background is not None
        others: list[int] = []
        if base is not None:
            supports.check(base, "base")
            others = [row for row, name in enumerate(base.names) if name not in set(supports.names)]
            columns = others + [len(base)] * has_row
            shift = torch.tensor([supports.bias or 0.0] * len(others) + [0.0] * has_row)  # the CLIP's, on both sides
            scores = [(base.logits(x_ND, with_background=has_row)[:, columns] - shift) / base.scale for x_ND in rows]
        return cls(rows[1], *scores, learned=len(background_BD) > 0 and not has_row,
                   record={"base": len(others), "background": len(background_BD)})


def fit(supports: Supports, score: Callable[[Tensor, Tensor], Tensor], parameters: Sequence[Tensor], rivals: Rivals,
        settings: Fit, *, tau: float, margin: float = 0.0) -> None:
    """Change ``parameters`` so that a softmax of ``tau`` times the scores finds the class of every support vector.

    A step takes ``batch`` support vectors and as many background rows, in an order drawn from the seed. The same inputs
    give the same bits.

    Args:
        score: From the rows of a step ``[N, D]`` and their places (of support vectors, then -1 for background rows) to
            scores of the added classes ``[N, C]``, differentiable in ``parameters``.
        tau: Of the softmax.
        margin: Taken from the score of a support vector's own class, in training only.
    """
    if not 0 < tau < math.inf:
        raise UserError(f"fit of classes: tau {tau}, expected a number above 0")
    parameters = list(parameters)
    row_D = rivals.background_BD.mean(0).requires_grad_() if rivals.learned else None
    if row_D is not None:
        parameters.append(row_D)
    for parameter in parameters:
        parameter.requires_grad_()
    optimiser = torch.optim.SGD(parameters, lr=settings.lr, momentum=settings.momentum,
                                dampening=settings.dampening, weight_decay=settings.weight_decay)
    rng = torch.Generator().manual_seed(int(settings.seed))
    ours = _batches(len(supports.vectors_SD), settings, rng)
    theirs = _batches(len(rivals.background_BD), settings, rng)
    classes = len(supports.names)
    for rows, background_rows in zip(ours, theirs):
        x_ND = torch.cat([supports.vectors_SD[rows], rivals.background_BD[background_rows]])
        places_N = torch.cat([rows, torch.full_like(background_rows, -1)])
        own_NC = F.one_hot(supports.class_of_S[rows], classes)
        scores_NC = score(x_ND, places_N) - margin * F.pad(own_NC, (0, 0, 0, len(background_rows)))
        columns = [scores_NC, torch.cat([rivals.of_supports_SR[rows], rivals.of_background_BR[background_rows]])]
        if row_D is not None:
            columns.append((x_ND @ F.normalize(row_D, dim=0))[:, None])
        logits = tau * torch.cat(columns, dim=1)
        targets = torch.cat([supports.class_of_S[rows], torch.full_like(background_rows, logits.shape[1] - 1)])
        optimiser.zero_grad()
        F.cross_entropy(logits, targets).backward()
        optimiser.step()
    if not all(bool(torch.isfinite(parameter).all()) for parameter in parameters):
        raise UserError(f"fit of classes: it diverged at a learning rate of {settings.lr} and tau {tau}; lower one")


def _batches(count: int, settings: Fit, rng: torch.Generator) -> list[Tensor]:
    """Places of the rows of every step: one permutation after the other, each row as often as any other."""
    size = min(int(settings.batch), count)
    needed = size * int(settings.iterations)
    order = [torch.randperm(count, generator=rng) for _ in range(-(-needed // max(count, 1)))]
    return list(torch.cat([*order, torch.zeros(0, dtype=torch.long)])[:needed].reshape(int(settings.iterations), size))
