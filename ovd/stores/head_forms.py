"""How the cosines of classes of different forms become logits side by side in one head.

Shapes: C classes, M vectors a class, D embedding width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ovd.errors import UserError

# How the terms of a class become one number; a class's kind is its place here, as files keep it.
SUM, MEAN, MAX, LOG_MEAN_EXP = range(4)
KINDS = ("sum", "mean", "max", "log_mean_exp")
_PREFIX = "terms."


@dataclass(frozen=True, eq=False)
class Terms:
    """For each class, how its M cosines become its logit.

    Vector m of class c gives the term ``mix[c, m] * cos + shifts[c, m]``, with ``exp(-betas[c, m] * (1 - cos))`` in
    place of the cosine where its beta is not 0. The terms become the logit by the class's kind: ``scales[c]`` times
    their sum, mean or maximum, or times ``log(mean(exp(tau * term))) / tau``, where ``tau`` is the class's first beta
    (the kernel is not in use then).

    Attributes:
        kinds: int64 ``[C]``, positions in ``KINDS``.
        scales: float64 ``[C]``.
        mix: float64 ``[C, M]``.
        betas: float64 ``[C, M]``, at least 0.
        shifts: float64 ``[C, M]``; None for zeros.
    """

    kinds: Tensor
    scales: Tensor
    mix: Tensor
    betas: Tensor
    shifts: Tensor | None = None

    def __post_init__(self) -> None:
        if self.shifts is None:
            object.__setattr__(self, "shifts", torch.full_like(torch.as_tensor(self.mix), -0.0))  # changes no bit
        for f in fields(self):
            dtype = torch.int64 if f.name == "kinds" else torch.float64
            value = torch.as_tensor(getattr(self, f.name)).detach().to(dtype).contiguous()
            object.__setattr__(self, f.name, value)

    @classmethod
    def of(cls, classes: int, vectors: int, reduce: str, scale: float, beta: float | None = None) -> "Terms":
        """What a plain form does, for each of its classes (``reduce`` of a class head)."""
        kind = {"single": SUM, "exp_sum": SUM, "mean_logit": MEAN, "max": MAX, "log_mean_exp": LOG_MEAN_EXP}[reduce]
        inner = scale if reduce == "log_mean_exp" else beta or 0.0
        return cls(torch.full((classes,), kind), torch.full((classes,), scale, dtype=torch.float64),
                   torch.ones(classes, vectors), torch.full((classes, vectors), inner, dtype=torch.float64))

    @classmethod
    def load(cls, tensors: dict[str, Tensor]) -> "Terms | None":
        """Taken out of the tensors of a file; None where it has none."""
        found = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_PREFIX)}
        return cls(**{name.removeprefix(_PREFIX): value for name, value in found.items()}) if found else None

    def tensors(self) -> Mapping[str, Tensor]:
        """By their names in a file."""
        return {_PREFIX + f.name: getattr(self, f.name) for f in fields(self)}

    def check(self, names: tuple[str, ...], vectors: int) -> None:
        """UserError for shapes or values that do not fit these classes."""
        classes = len(names)
        for f in fields(self):
            shape = [classes] if f.name in ("kinds", "scales") else [classes, vectors]
            value = getattr(self, f.name)
            if list(value.shape) != shape:
                raise UserError(f"class head: {f.name} have shape {list(value.shape)}, expected {shape}")
            if not (fine := torch.isfinite(value.reshape(classes, -1)).all(1)).all():
                raise UserError(f"class head: the {f.name} of class {names[int((~fine).nonzero()[0])]!r} have NaN or "
                                "infinity")
        tau = self.betas[:, 0]
        for what, bad in (("a kind that is none of " + ", ".join(KINDS),
                           (self.kinds < 0) | (self.kinds >= len(KINDS))),
                          ("a scale that is not above 0", self.scales <= 0),
                          ("a beta below 0", (self.betas < 0).any(1)),
                          ("log_mean_exp without a beta above 0", (self.kinds == LOG_MEAN_EXP) & (tau == 0))):
            if bad.any():
                raise UserError(f"class head: class {names[int(bad.nonzero()[0])]!r} has {what}")

    def padded(self, vectors: int) -> "Terms":
        """With room for lists of ``vectors``."""
        more = vectors - self.mix.shape[1]
        return replace(self, mix=F.pad(self.mix, (0, more), value=1.0), betas=F.pad(self.betas, (0, more)),
                       shifts=F.pad(self.shifts, (0, more), value=-0.0))

    def rows(self, rows: Tensor | list[int] | slice) -> "Terms":
        """Of some of the classes."""
        return Terms(*(getattr(self, f.name)[rows] for f in fields(self)))

    def joined(self, other: "Terms") -> "Terms":
        """Of these classes, then of the other's."""
        vectors = max(self.mix.shape[1], other.mix.shape[1])
        ours, theirs = self.padded(vectors), other.padded(vectors)
        return Terms(*(torch.cat([getattr(ours, f.name), getattr(theirs, f.name)]) for f in fields(self)))

    def to(self, device: torch.device) -> "Terms":
        """On another device."""
        return Terms(*(getattr(self, f.name).to(device) for f in fields(self)))
