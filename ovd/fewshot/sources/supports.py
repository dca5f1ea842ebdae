"""What every method that makes classes from boxes starts from: checked support vectors, a class each.

Shapes: S support vectors, C classes, K shots of a class, M the most that a class has, D embedding width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead


@dataclass(frozen=True, eq=False)
class Supports:
    """Support vectors of C classes, checked.

    Attributes:
        vectors_SD: Float32 on the CPU; made unit rows here.
        class_of_S: int64, positions in ``names``.
        names: The classes.
        scale: Of the heads that are made: the CLIP's own (100), so that they stand beside text classes.
        stats: Of these heads: ``{"clip": fingerprint}``, and ``"space"`` where the vectors are of another space.
        provenance: For each class, where its vectors come from.
        bias: That the CLIP adds to all its logits (one trained with sigmoids, SigLIP); None for none.

    Raises:
        UserError: No classes or vectors, a class without a vector, a name that occurs twice, NaN, a vector of zeros.
    """

    vectors_SD: Tensor
    class_of_S: Tensor
    names: tuple[str, ...]
    scale: float = 100.0
    stats: Mapping[str, Any] = field(default_factory=dict)
    provenance: Sequence[Mapping[str, Any]] = ()
    bias: float | None = None

    def __post_init__(self) -> None:
        vectors_SD = torch.as_tensor(self.vectors_SD).detach().to("cpu", torch.float32)
        class_of_S = torch.as_tensor(self.class_of_S).to("cpu", torch.int64)
        names = tuple(self.names)
        if not names:
            raise UserError("support vectors: no classes; name at least one")
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"support vectors: the class {name!r} occurs twice; class names must be unique")
        if vectors_SD.ndim != 2 or class_of_S.shape != vectors_SD.shape[:1]:
            raise UserError(f"support vectors: vectors of shape {list(vectors_SD.shape)} with classes of shape "
                            f"{list(class_of_S.shape)}, expected [S, D] and [S]")
        if len(class_of_S) and not 0 <= int(class_of_S.min()) <= int(class_of_S.max()) < len(names):
            raise UserError(f"support vectors: a class of number {int(class_of_S.min())} or {int(class_of_S.max())}, "
                            f"but there are {len(names)} names")
        counts_C = torch.bincount(class_of_S, minlength=len(names))
        if not counts_C.all():
            empty = names[int((counts_C == 0).nonzero()[0])]
            raise UserError(f"support vectors: class {empty!r} has none; give it at least one box, or leave it out")
        odd = ~torch.isfinite(vectors_SD).all(1) | (vectors_SD.abs().amax(1) == 0)
        if odd.any():
            row = int(odd.nonzero()[0])
            raise UserError(f"support vectors: vector {row}, of class {names[int(class_of_S[row])]!r}, has NaN or "
                            "infinity, or is zero; embed its box again")
        if self.provenance and len(self.provenance) != len(names):
            raise UserError(f"support vectors: provenance of {len(self.provenance)} classes, but {len(names)} names")
        for key, value in (("vectors_SD", F.normalize(vectors_SD, dim=1)), ("class_of_S", class_of_S),
                           ("names", names), ("stats", dict(self.stats)),
                           ("provenance", tuple(map(dict, self.provenance)) or tuple({} for _ in names))):
            object.__setattr__(self, key, value)

    @property
    def dim(self) -> int:
        """D."""
        return self.vectors_SD.shape[1]

    @property
    def shots_C(self) -> Tensor:
        """How many vectors each class has, int64."""
        return torch.bincount(self.class_of_S, minlength=len(self.names))

    def means(self) -> Tensor:
        """The mean vector of each class, ``[C, D]``, not unit."""
        sums_CD = torch.zeros(len(self.names), self.dim).index_add_(0, self.class_of_S, self.vectors_SD)
        return sums_CD / self.shots_C[:, None]

    def lists(self) -> tuple[Tensor, Tensor]:
        """The vectors class by class, in the order given and padded with zeros ``[C, M, D]``, and their number."""
        counts_C = self.shots_C
        lists_CMD = torch.zeros(len(self.names), int(counts_C.max()), self.dim)
        for label in range(len(self.names)):
            lists_CMD[label, :counts_C[label]] = self.vectors_SD[self.class_of_S == label]
        return lists_CMD, counts_C

    def check(self, head: ClassHead, what: str) -> None:
        """UserError for a head whose logits do not go with these vectors: another space or width, no cosines."""
        head.check(dim=self.dim)
        ours = self.stats.get("space", self.stats.get("clip"))
        if head.space != ours:
            raise UserError(f"support vectors: the {what} head is of the embedding space {str(head.space)[:15]}, the "
                            f"vectors are of {str(ours)[:15]}; make both with the same")
        if head.norm != "cosine":
            raise UserError(f"support vectors: the {what} head goes by norm {head.norm}, needed is cosine")

    def head(self, method: str, weights_CMD: Tensor, settings: Mapping[str, Any] | None = None,
             **form: Any) -> ClassHead:
        """A class head of these classes that says how it was made.

        Args:
            settings: Of the method, plain values; kept in the provenance.
            form: Of the :class:`ClassHead`; a ``bias`` is added to the CLIP's.
        """
        if self.bias is not None:
            form["bias"] = torch.as_tensor(form.get("bias", 0.0)) + torch.full((len(self.names),), self.bias)
        made = {"method": method, **({"settings": dict(settings)} if settings else {})}
        provenance = [{**made, "shots": shots, **given} for shots, given in zip(self.shots_C.tolist(), self.provenance)]
        return ClassHead(self.names, weights_CMD, scale=self.scale, provenance=tuple(provenance), stats=self.stats,
                         **form)
