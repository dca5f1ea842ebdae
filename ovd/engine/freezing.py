"""Parts of a model that are not trained, chosen by the names of their parameters.

A frozen parameter has ``requires_grad=False``: no gradients are computed for it, and the optimiser leaves it alone,
weight decay included. Normalisation layers that are frozen whole stay in evaluation mode whatever ``model.train()``
says, so that their running statistics, which are no parameters, stay too.

In a config, of a detector class that mixes in :class:`FreezesParts`::

    model = dict(type=..., frozen=["backbone", "neck", "roi_head.bbox_head.shared_*"])
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from mmengine.dist import is_main_process
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ovd.errors import UserError, nearest

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class FreezeReport:
    """What of a module is frozen and what is trained: its parameters by name, with their numbers of elements.

    Attributes:
        frozen, trainable: Name to number of elements, in the module's order.
        norms: Names of the normalisation layers that stay in evaluation mode.
    """

    frozen: dict[str, int]
    trainable: dict[str, int]
    norms: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{what}: {len(sizes)} parameters, {sum(sizes.values()):,} numbers: {_shown(sizes)}"
                 for what, sizes in (("frozen", self.frozen), ("trained", self.trainable))]
        if self.norms:
            lines.append(f"in evaluation mode: {len(self.norms)} normalisation layers")
        return "\n".join(lines)


def freeze(module: nn.Module, patterns: Sequence[str], trainable: Sequence[str] = ()) -> FreezeReport:
    """Freeze the parameters of ``module`` that ``patterns`` name, in place; all others are left as they are.

    Args:
        module: Usually a whole detector.
        patterns: Globs (``*``, ``?``, ``[...]``; a ``*`` goes across dots) of names of parameters, or of modules, which
            stand for all that is below them: ``"backbone"``, ``"bbox_head.*_convs"``, ``"*"``.
        trainable: The same for exceptions: these are not frozen.

    Returns:
        The report on all parameters of the module.

    Raises:
        UserError: A pattern that no parameter or buffer matches, with the nearest name.
    """
    names = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
    chosen = _matching(names, patterns) - _matching(names, trainable)
    for name, parameter in module.named_parameters():
        if name in chosen:
            parameter.requires_grad = False
    norms = []
    for prefix, layer in module.named_modules():
        if isinstance(layer, _NORMS):
            inside = [f"{prefix}.{name}" if prefix else name
                      for name, _ in (*layer.named_parameters(), *layer.named_buffers())]
            if inside and chosen.issuperset(inside):
                norms.append(prefix)
    kept = {True: {}, False: {}}
    for name, parameter in module.named_parameters():
        kept[parameter.requires_grad][name] = parameter.numel()
    return FreezeReport(frozen=kept[False], trainable=kept[True], norms=tuple(norms))


class FreezesParts:
    """Mixin for a detector (named before mmdet's class) some parts of which are not trained.

    Says at the beginning of a training run what is frozen and what is trained.

    Args:
        frozen: Patterns of :func:`freeze`; none for a detector that is trained as its class says.
        trainable: Exceptions.
        args, kwargs: As for the class that it is mixed into.

    Attributes:
        freezing: The :class:`FreezeReport`, or None where there are no patterns.
    """

    def __init__(self, *args: Any, frozen: Sequence[str] = (), trainable: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if trainable and not frozen:
            raise UserError(f"trainable={list(trainable)} are exceptions from what is frozen, and nothing is frozen: "
                            "set frozen too")
        self.freezing = freeze(self, frozen, trainable) if frozen else None

    def init_weights(self) -> None:
        """As mmengine's, which a training run begins with."""
        super().init_weights()
        if self.freezing is not None and is_main_process():
            print(self.freezing)

    def train(self, mode: bool = True) -> nn.Module:
        """As PyTorch's; frozen normalisation layers stay in evaluation mode."""
        super().train(mode)
        if mode and getattr(self, "freezing", None) is not None:
            for name in self.freezing.norms:
                self.get_submodule(name).eval()
        return self


def _matching(names: Iterable[str], patterns: Sequence[str]) -> set[str]:
    if isinstance(patterns, str):
        raise UserError(f"patterns of what is frozen must be a list, not {patterns!r}")
    found: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")}
        if not matched:
            parts = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}
            raise UserError(f"no parameter of the model matches {pattern!r}{nearest(pattern, sorted(parts))}")
        found |= matched
    return found


def _shown(sizes: dict[str, int]) -> str:
    """The modules that the parameters lie in; of heads, the parts."""
    depths = {"roi_head": 3, "bbox_head": 2}
    groups = dict.fromkeys(".".join(name.split(".")[:depths.get(name.split(".")[0], 1)]) for name in sizes)
    return ", ".join(groups) or "none"
