"""Giving the head of a trained detector another list of classes, by name.

A detector's classifier has a row for each class and, where classes compete in a softmax, one for the background; its
box regressor and mask head may have rows for each class too. Rows of classes that stay are copied to the bit; rows of
new ones are drawn, predicted from names, or taken from another checkpoint (TFA, Wang et al. 2020, sec. 3.1 and its
authors' tool, with any number of classes).

Shapes: C classes of the checkpoint, P rows a class (1; 4 of a box regressor), F what a row holds.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ovd.errors import UserError, nearest
from ovd.vocabulary.classes import canonical, spelling

# last part of a layer's name -> rows a class; these of mmdet's heads and ours have rows by class
ROWS_A_CLASS = {"fc_cls": 1, "cls_logits": 1, "conv_cls": 1, "fc_reg": 4, "conv_logits": 1}
CLASSIFIERS = ("fc_cls", "cls_logits", "conv_cls")
PRIOR = 0.01  # the probability that a new sigmoid classifier begins with (RetinaNet, Lin et al. 2017, sec. 4.1)


@dataclass(frozen=True)
class ClassLayer:
    """A layer of a checkpoint with rows for each class.

    Attributes:
        name: Of the module: its tensors are ``<name>.weight`` and perhaps ``<name>.bias``.
        rows: P.
        background: Whether a row for the background follows those of the classes.
    """

    name: str
    rows: int
    background: bool

    @property
    def classifies(self) -> bool:
        """Whether its rows are compared with features to give class scores."""
        return self.name.rsplit(".", 1)[-1] in CLASSIFIERS


@dataclass(frozen=True)
class ClassHeadLayers:
    """The class layers of a checkpoint and the names of their classes.

    Attributes:
        names: C of them, in the order of the rows.
        layers: At least one that classifies.
        weights: The checkpoint's tensors.
    """

    names: tuple[str, ...]
    layers: tuple[ClassLayer, ...]
    weights: Mapping[str, Tensor]

    def index(self) -> dict[str, int]:
        """Position by canonical name."""
        return {canonical(name): position for position, name in enumerate(self.names)}

    def rows_of_classes(self, layer: ClassLayer, part: str) -> Tensor:
        """``[C, P, ...]`` of the layer's ``weight`` or ``bias``, without the background."""
        tensor = self.weights[f"{layer.name}.{part}"]
        count = len(self.names) * layer.rows
        return tensor[:count].reshape(len(self.names), layer.rows, *tensor.shape[1:])


def find_class_layers(checkpoint: Mapping[str, Any], names: Sequence[str] | None = None,
                      source: str = "checkpoint") -> ClassHeadLayers:
    """The layers with rows by class, checked against the class names.

    Layers that all classes share (a regressor with 4 rows, a mask head with one) are none of them; of a detector of
    one class they are taken for shared.

    Args:
        checkpoint: As :func:`ovd.engine.checkpoints.read_checkpoint` returns it.
        names: The names of the rows, where the checkpoint does not carry them.
        source: For messages.

    Raises:
        UserError: No names, no such layer, or another number of rows than names.
    """
    weights = checkpoint["state_dict"]
    found = [name.removesuffix(".weight") for name in weights
             if name.endswith(".weight") and name.split(".")[-2:-1] and name.split(".")[-2] in ROWS_A_CLASS]
    if not any(name.rsplit(".", 1)[-1] in CLASSIFIERS for name in found):
        raise UserError(f"{source}: has no classifier with a row for each class ({', '.join(CLASSIFIERS)}); the "
                        "classes of a detector with a class head file are changed with ovd test --class-head FILE")
    lists = [tuple(names)] if names is not None else _recorded_names(checkpoint, source)
    problem = ""
    for candidate in lists:
        layers = [_layer(name, len(weights[f"{name}.weight"]), len(candidate)) for name in found]
        wrong = [name for name, layer in zip(found, layers) if layer == "wrong"]
        if not wrong:
            return ClassHeadLayers(candidate, tuple(layer for layer in layers if layer is not None), weights)
        problem = problem or f"{wrong[0]} has {len(weights[f'{wrong[0]}.weight'])} rows and there are {len(candidate)}"
    raise UserError(f"{source}: {problem} class names; give the names of its rows in order with --names FILE")


def _recorded_names(checkpoint: Mapping[str, Any], source: str) -> list[tuple[str, ...]]:
    """Lists that the names of the rows may be, likelier ones first: all that were there, or the base classes alone."""
    meta = checkpoint.get("meta") or {}
    data = meta.get("dataset_meta") or meta
    names = data.get("classes") or data.get("CLASSES")
    if not names or isinstance(names, str):
        raise UserError(f"{source}: does not carry the names of its classes; give them in the order of its rows with "
                        "--names FILE (a .txt list, one a line, or a split)")
    names, num_base = tuple(names), data.get("num_base")
    lists = [names] + ([names[:num_base]] if num_base and num_base < len(names) else [])
    rows = [len(weight) for name, weight in checkpoint["state_dict"].items() if name.endswith("fc_cls.weight")]
    # of C + 1 names, C + 1 rows are those of C base classes and the background
    return sorted(lists, key=lambda one: len(one) + 1 not in rows) if rows else lists


def _layer(name: str, rows: int, classes: int) -> ClassLayer | str | None:
    """The layer; None where its rows are shared by all classes; ``"wrong"`` where they do not fit."""
    kind = name.rsplit(".", 1)[-1]
    each = ROWS_A_CLASS[kind]
    if kind == "fc_cls" and rows == classes + 1:
        return ClassLayer(name, each, background=True)
    if kind not in CLASSIFIERS and rows == each:
        return None
    return ClassLayer(name, each, background=False) if rows == classes * each else "wrong"


class RowSource(Protocol):
    """Where the rows of new classes come from."""

    kind: str

    def rows(self, layer: ClassLayer, part: str, base_CP: Tensor, names: Sequence[str]) -> Tensor:
        """Rows ``[len(names), P, ...]`` of a layer's ``weight`` or ``bias``; ``base_CP`` are the checkpoint's."""


@dataclass(frozen=True)
class RandomRows:
    """Weights from N(0, std); the bias 0, or of a sigmoid classifier such that scores begin at :data:`PRIOR`.

    A class's rows depend on the seed, the layer's name and its own name alone.
    """

    seed: int = 0
    std: float = 0.01
    kind = "random"

    def rows(self, layer: ClassLayer, part: str, base_CP: Tensor, names: Sequence[str]) -> Tensor:
        """See :class:`RowSource`."""
        if part == "bias":
            sigmoid = layer.classifies and not layer.background
            value = -math.log((1 - PRIOR) / PRIOR) if sigmoid else 0.0
            return base_CP.new_full((len(names), *base_CP.shape[1:]), value)
        drawn = [torch.randn(base_CP.shape[1:], generator=self._generator(layer.name, name)) for name in names]
        return (torch.stack(drawn) * self.std).to(base_CP.dtype)

    def _generator(self, layer: str, name: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed}\n{layer}\n{canonical(name)}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@dataclass(frozen=True)
class RowsOfCheckpoint:
    """Rows by name of another checkpoint of the same architecture, trained on the new classes alone.

    Raises (in ``rows``):
        UserError: A class or a layer that it does not have, or rows of another shape.
    """

    other: ClassHeadLayers
    source: str
    kind = "combine"

    def rows(self, layer: ClassLayer, part: str, base_CP: Tensor, names: Sequence[str]) -> Tensor:
        """See :class:`RowSource`."""
        positions = self.other.index()
        for name in names:
            if canonical(name) not in positions:
                raise UserError(f"{self.source}: has no class {name!r}, nor has the base checkpoint"
                                f"{nearest(name, self.other.names)}")
        tensor = self.other.weights.get(f"{layer.name}.{part}")
        count, extra = len(self.other.names) * layer.rows, int(layer.background)
        if tensor is None or len(tensor) != count + extra or tensor.shape[1:] != base_CP.shape[2:]:
            shown = "is missing" if tensor is None else f"has the shape {tuple(tensor.shape)}"
            raise UserError(f"{self.source}: {layer.name}.{part} {shown}, which does not fit the base checkpoint: "
                            "train both with the same head")
        by_class = tensor[:count].reshape(-1, layer.rows, *tensor.shape[1:])
        return by_class[[positions[canonical(name)] for name in names]].to(base_CP.dtype)


@dataclass(frozen=True)
class Operation:
    """What an operation made: the new tensors, and what happened to each class.

    Attributes:
        weights: All of the checkpoint's tensors, with the class layers replaced.
        names: The new classes in the order of the rows.
        copied, made, removed: Names of classes.
        kind: How the rows in ``made`` were made.
        layers: ``(name, shape before, shape after)`` of each tensor that was replaced.
    """

    weights: dict[str, Tensor]
    names: tuple[str, ...]
    copied: tuple[str, ...]
    made: tuple[str, ...]
    removed: tuple[str, ...]
    kind: str
    layers: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def num_base(self) -> int | None:
        """How many of the classes come from training, where these are the first ones; else None."""
        trained = {*self.copied, *(self.made if self.kind == "combine" else ())}
        count = len(trained)
        return count if set(self.names[:count]) == trained else None

    def __str__(self) -> str:
        width = max(len(name) for name, _, _ in self.layers)
        lines = [f"{'tensor':<{width}}  {'before':<18}  after"]
        lines += [f"{name:<{width}}  {list(before)!s:<18}  {list(after)}" for name, before, after in self.layers]
        for what, names in (("copied", self.copied), (f"new ({self.kind})", self.made), ("removed", self.removed)):
            shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
            lines.append(f"{what:<16} {len(names):>5} classes{': ' + shown if names else ''}")
        return "\n".join(lines)


def operate(head: ClassHeadLayers, names: Sequence[str], source: RowSource | None) -> Operation:
    """The checkpoint's tensors for the classes ``names``, in that order.

    Args:
        head: The checkpoint.
        names: The new list; classes of the checkpoint that are not in it are removed.
        source: Makes the rows of classes that the checkpoint does not have; None where there must not be any.

    Raises:
        UserError: No class, one twice, or one that the checkpoint does not have where ``source`` is None.
    """
    names = tuple(names)
    known = head.index()
    wanted = [canonical(name) for name in names]
    if not names:
        raise UserError("no class is left: name at least one")
    spelled: dict[str, str] = {}
    for name in names:
        if first := spelled.get(spelling(name)):
            raise UserError(f"class {first!r} is named twice, the second time as {name!r}; name every class once")
        spelled[spelling(name)] = name
    for name in head.names:
        other = spelled.get(spelling(name), name)
        if canonical(other) != canonical(name):
            raise UserError(f"the checkpoint has the class {name!r}, another spelling of {other!r}; write it as there")
    made = tuple(name for name, one in zip(names, wanted) if one not in known)
    if made and source is None:
        raise UserError(f"the checkpoint has no class {made[0]!r}{nearest(made[0], head.names)}")
    weights, changes = dict(head.weights), []
    for layer in head.layers:
        for part in ("weight", "bias"):
            key = f"{layer.name}.{part}"
            if key not in head.weights:
                continue
            old_CP = head.rows_of_classes(layer, part)
            new = iter(source.rows(layer, part, old_CP, made) if made else ())
            rows = torch.stack([old_CP[known[one]] if one in known else next(new) for one in wanted]).flatten(0, 1)
            background = head.weights[key][len(head.names) * layer.rows:]
            weights[key] = torch.cat([rows, background])
            changes.append((key, tuple(head.weights[key].shape), tuple(weights[key].shape)))
    removed = tuple(name for name in head.names if canonical(name) not in set(wanted))
    copied = tuple(name for name, one in zip(names, wanted) if one in known)
    return Operation(weights, names, copied, made, removed, "random" if source is None else source.kind, tuple(changes))
