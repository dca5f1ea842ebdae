"""Objects whose classes and embeddings are known, from whatever source: what episodes are drawn from.

Shapes: N objects, C classes, D embedding width.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovd.errors import UserError, nearest
from ovd.stores.manifest import canonical_json
from ovd.vocabulary.classes import canonical


@dataclass(frozen=True, eq=False)
class EmbeddedObjects:
    """Embeddings and classes of objects.

    Attributes:
        names: The classes; a label is a position in it.
        labels_N: int64.
        rows_ND: float16 or float32, one embedding an object; their length does not count.
        space: What made the rows: ``{"clip": fingerprint}`` where that is known.
    """

    names: tuple[str, ...]
    labels_N: np.ndarray
    rows_ND: np.ndarray
    space: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.labels_N) != len(self.rows_ND):
            raise UserError(f"{len(self.labels_N)} labels for {len(self.rows_ND)} embeddings")
        if not len(self.labels_N):
            raise UserError("no objects to draw episodes from: the sources have none of the chosen classes")

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def dim(self) -> int:
        """D, the embedding width."""
        return self.rows_ND.shape[1]

    def fingerprint(self) -> str:
        """``sha256:<hex>`` of classes, labels and embeddings."""
        sha = hashlib.sha256(canonical_json([self.names, self.rows_ND.shape]).encode())
        for array in (self.labels_N, self.rows_ND):
            sha.update(np.ascontiguousarray(array))
        return "sha256:" + sha.hexdigest()

    def counts(self) -> np.ndarray:
        """Objects of each class, int64 ``[C]``."""
        return np.bincount(self.labels_N, minlength=len(self.names))

    def unit_rows(self, places: np.ndarray) -> Tensor:
        """Unit rows float32 ``[*places.shape, D]`` of objects, any number of dimensions."""
        return F.normalize(torch.from_numpy(self.rows_ND[places]).float(), dim=-1)

    def with_enough(self, needed: int) -> tuple["EmbeddedObjects", list[str]]:
        """Without the classes that have fewer than ``needed`` objects, and which those are."""
        few = [name for name, count in zip(self.names, self.counts().tolist()) if count < needed]
        return (self.select([name for name in self.names if name not in few]) if few else self), few

    def select(self, names: Iterable[str]) -> "EmbeddedObjects":
        """The objects of these classes, which get labels in this order.

        Raises:
            UserError: A class that is not there, or is named twice.
        """
        names, known = list(names), {canonical(name): label for label, name in enumerate(self.names)}
        new_label_C = np.full(len(self.names), -1)
        for label, name in enumerate(names):
            if canonical(name) not in known:
                raise UserError(f"the sources have no class {name!r}{nearest(name, self.names)}")
            if new_label_C[known[canonical(name)]] >= 0:
                raise UserError(f"the class {name!r} is asked for twice")
            new_label_C[known[canonical(name)]] = label
        labels_N = new_label_C[self.labels_N]
        kept = np.flatnonzero(labels_N >= 0)
        return EmbeddedObjects(tuple(names), labels_N[kept], self.rows_ND[kept], self.space)

    @classmethod
    def merge(cls, parts: Sequence["EmbeddedObjects"], sources: Sequence[str]) -> "EmbeddedObjects":
        """The objects of several sources; classes of one name are one class.

        Args:
            sources: What to call each part in messages.

        Raises:
            UserError: Embeddings of another width, or of another CLIP.
        """
        names: dict[str, str] = {}
        for part, source in zip(parts, sources):
            if part.dim != parts[0].dim:
                raise UserError(f"{source}: embeddings of width {part.dim}, those of {sources[0]} have "
                                f"{parts[0].dim}; embed both with the same CLIP")
            if part.space != parts[0].space:
                raise UserError(f"{source}: embeddings of another CLIP ({_shown(part.space)}) than those of "
                                f"{sources[0]} ({_shown(parts[0].space)}); embed both with the same")
            for name in part.names:
                names.setdefault(canonical(name), name)
        place = {key: label for label, key in enumerate(names)}
        labels = [np.array([place[canonical(name)] for name in part.names])[part.labels_N] for part in parts]
        return cls(tuple(names.values()), np.concatenate(labels), np.concatenate([part.rows_ND for part in parts]),
                   parts[0].space)


def _shown(space: Mapping[str, Any]) -> str:
    return str(space.get("clip") or "unknown")[:15]
