"""Layer-wise learning-rate decay: the nearer a layer is to the image, the slower it learns.

As in the fine-tuning of SparK's ResNets (Tian et al., ICLR 2023, downstream_d2): a parameter of layer i learns at
``lr * decay ** (N + 1 - i)``, where N is the backbone's last layer and everything outside the backbone (FPN, RPN, RoI
heads) is layer N + 1. In a config::

    optim_wrapper = dict(
        type=OptimWrapper, constructor=LayerDecayConstructor, optimizer=dict(type=AdamW, lr=2.5e-4, weight_decay=1e-4),
        paramwise_cfg=dict(layer_decay=0.6))
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmdet.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ovd.errors import UserError, nearest

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True)
class LayerTable:
    """Which layer a parameter belongs to, by its name.

    Attributes:
        rules: ``(pattern, layer)`` or ``(pattern, first, blocks[, highest])``; the first pattern (a regular expression)
            that matches the beginning of the name decides. With ``blocks``, the pattern's group 1 is the number b of a
            block, and the layer is ``first + b // blocks``, at most ``highest``.
        last: the backbone's last layer, N.
    """

    rules: tuple[tuple, ...]
    last: int

    def __post_init__(self) -> None:
        for rule in self.rules:
            try:
                groups = re.compile(rule[0]).groups
                sound = len(rule) in (2, 3, 4) and all(isinstance(n, int) and n >= 0 for n in rule[1:])
                sound = sound and (len(rule) == 2 or (groups >= 1 and rule[2] > 0)) and rule[1] <= self.last
            except (re.error, TypeError, IndexError):
                sound = False
            if not sound:
                raise UserError(f"layer table: {list(rule)!r} is not [pattern, layer] or [pattern with a group for the "
                                f"block's number, first layer, blocks a layer], with layers up to {self.last}")

    def layer(self, name: str) -> int | None:
        """Layer of the parameter ``name``, 0 to N; None where no rule matches."""
        for pattern, first, *grouping in self.rules:
            if found := re.match(pattern, name):
                layer = first + int(found[1]) // grouping[0] if grouping else first
                return min(layer, grouping[1] if len(grouping) > 1 else self.last)
        return None


def resnet_table(stage3_blocks: int, stem: str = r"(?:conv1|[bgil]n1|stem)\.", stage: str = "layer{}",
                 first: int = 1) -> LayerTable:
    """SparK's table for a ResNet in an mmdet detector: stem 0, the first two stages 1 and 2, the blocks of the third in
    threes from 3 on, the fourth N, with N = 5 (up to R-50) or 11 (R-101 and deeper).

    The third stage ends at N - 1, also in an R-152, whose blocks would go on to 14 and so learn faster than the heads.

    Args:
        stage3_blocks: of the third stage: 6 in an R-50, 23 in an R-101.
        stem: pattern of the stem's names within the backbone.
        stage, first: how stages are called, and the number of the first.
    """
    last = 5 if stage3_blocks <= 6 else 11
    where = [re.escape(stage.format(first + number)) for number in range(4)]
    return LayerTable((
        (rf"backbone\.{stem}", 0),
        (rf"backbone\.{where[0]}\.", 1),
        (rf"backbone\.{where[1]}\.", 2),
        (rf"backbone\.{where[2]}\.(\d+)\.", 3, 3, last - 1),
        (rf"(?:backbone|roi_head\.shared_head)\.{where[3]}\.", last),  # in a C4 detector it is part of the RoI head
    ), last)


def table_of(backbone: nn.Module) -> LayerTable:
    """The table of a backbone that is known: ResNets of mmdet's or torchvision's layout, and CLIP's (ClipResNet).

    Raises:
        UserError: another backbone.
    """
    if isinstance(stage3 := getattr(backbone, "layer3", None), nn.Sequential):
        return resnet_table(len(stage3))
    if hasattr(backbone, "stem") and isinstance(stages := getattr(backbone, "stages", None), nn.ModuleList):
        return resnet_table(len(stages[2]), stem=r"stem\.", stage="stages.{}", first=0)
    raise UserError(f"layer decay: no table for the backbone {type(backbone).__name__}; give one: paramwise_cfg=dict("
                    "layer_decay=..., layers=dict(last=N, rules=[[pattern, layer], ...]))")


@dataclass
class ParameterGroup:
    """Parameters with equal settings.

    Attributes:
        factor: what the layer's decay multiplies the learning rate by.
        lr, weight_decay: of these parameters.
    """

    layer: int
    factor: float
    lr: float
    weight_decay: float
    names: list[str] = field(default_factory=list)
    parameters: list[nn.Parameter] = field(default_factory=list)

    @property
    def numbers(self) -> int:
        """How many numbers the parameters have."""
        return sum(parameter.numel() for parameter in self.parameters)


def group_parameters(model: nn.Module, table: LayerTable, *, lr: float, weight_decay: float, decay: float,
                     norm_weight_decay: float = 0.0, bias_lr_mult: float = 1.0,
                     bias_weight_decay: float | None = None) -> list[ParameterGroup]:
    """The trainable parameters of a detector in groups of equal settings, from the stem to the heads.

    Args:
        model: its backbone is ``model.backbone``.
        table: gives every parameter of the backbone a layer; what is outside it and matches no rule is layer N + 1.
        lr, weight_decay: of the heads.
        decay: factor between two layers, in (0, 1]; 0 is taken as 1, no decay.
        norm_weight_decay: of normalisation layers, weight and bias; their learning rate is their layer's.
        bias_lr_mult, bias_weight_decay: of biases outside normalisation layers (None: as weights).

    Raises:
        UserError: a decay outside [0, 1]; trainable parameters of the backbone that no rule matches.
    """
    if not 0 <= decay <= 1:
        raise UserError(f"layer decay: layer_decay={decay} is not between 0 and 1")
    decay = decay or 1.0
    groups: dict[tuple, ParameterGroup] = {}
    unknown = []
    for name, parameter, module in _parameters(model):
        layer = table.layer(name)
        if layer is None and name.startswith("backbone."):
            unknown.append(name)
            continue
        layer = table.last + 1 if layer is None else layer
        factor = decay ** (table.last + 1 - layer)
        rate, wd = lr * factor, weight_decay
        if isinstance(module, NORMS):
            wd = norm_weight_decay
        elif name.endswith(".bias"):
            rate *= bias_lr_mult
            wd = weight_decay if bias_weight_decay is None else bias_weight_decay
        group = groups.setdefault((layer, rate, wd), ParameterGroup(layer, factor, rate, wd))
        group.names.append(name)
        group.parameters.append(parameter)
    if unknown:
        raise UserError(f"layer decay: {len(unknown)} parameters of {type(model.backbone).__name__} are in no layer of "
                        f"its table, such as {unknown[0]}; add rules for them to paramwise_cfg.layers")
    return sorted(groups.values(), key=lambda group: (group.layer, -group.lr, -group.weight_decay))


def group_text(groups: Sequence[ParameterGroup], names: bool = False) -> str:
    """The groups as a table, with ``names`` also the parameters of each."""
    lines = [f"{'layer':>5}  {'factor':>8}  {'lr':>10}  {'weight decay':>12}  {'tensors':>7}  {'numbers':>11}"]
    for group in groups:
        lines.append(f"{group.layer:>5}  {group.factor:>8.6g}  {group.lr:>10.4g}  {group.weight_decay:>12.4g}  "
                     f"{len(group.names):>7}  {group.numbers:>11,}")
        lines += [f"         {name}" for name in group.names] if names else []
    return "\n".join(lines)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Builds the optimiser (AdamW, SGD, any of PyTorch's) and its wrapper with layer-wise learning-rate decay.

    ``paramwise_cfg`` takes ``layer_decay`` (factor between two layers), ``norm_weight_decay`` (0), ``bias_lr_mult``
    (1), ``bias_weight_decay`` (as weights), ``layers`` (``dict(rules=..., last=N)``: a :class:`LayerTable`; by default
    the backbone's own) and ``print_names`` (False). The groups are printed and logged by the main process; the log
    always has the names.
    """

    OPTIONS = ("layer_decay", "norm_weight_decay", "bias_lr_mult", "bias_weight_decay", "layers", "print_names")

    def _validate_cfg(self) -> None:
        """UserError unless ``paramwise_cfg`` and the optimiser say all that is needed, and nothing else."""
        for key in self.paramwise_cfg:
            if key not in self.OPTIONS:
                raise UserError(f"layer decay: paramwise_cfg has no option {key!r}{nearest(key, self.OPTIONS)}")
        if "layer_decay" not in self.paramwise_cfg:
            raise UserError("layer decay: paramwise_cfg lacks layer_decay, the factor between two layers such as 0.6")
        if self.base_lr is None:
            raise UserError("layer decay: the optimizer needs an lr")

    def add_params(self, params: list[dict], module: nn.Module, **kwargs: Any) -> None:
        """Append the groups of the detector ``module`` to ``params``, for the optimiser."""
        options = dict(self.paramwise_cfg)
        decay, names, layers = (options.pop(key, None) for key in ("layer_decay", "print_names", "layers"))
        if not isinstance(getattr(module, "backbone", None), nn.Module):
            raise UserError(f"layer decay: {type(module).__name__} has no backbone")
        table = table_of(module.backbone) if layers is None else _table(layers)
        groups = group_parameters(module, table, lr=self.base_lr, weight_decay=self.base_wd or 0.0, decay=decay,
                                  **options)
        params.extend({"params": group.parameters, "lr": group.lr, "weight_decay": group.weight_decay}
                      for group in groups)
        if is_main_process():
            kind = self.optimizer_cfg["type"]
            title = f"{getattr(kind, '__name__', kind)}, layer decay {decay} of {type(module.backbone).__name__}:"
            print(f"{title}\n{group_text(groups, bool(names))}")
            print_log(f"{title}\n{group_text(groups, True)}", logger="current")


def _table(layers: Mapping[str, Any]) -> LayerTable:
    if set(layers) != {"rules", "last"}:
        raise UserError("layer decay: paramwise_cfg.layers must be dict(rules=[[pattern, layer], ...], last=N)")
    return LayerTable(tuple(tuple(rule) for rule in layers["rules"]), layers["last"])


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """Name, parameter and owner of everything that is trained; what is shared comes once."""
    seen = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield f"{prefix}.{name}" if prefix else name, parameter, module
