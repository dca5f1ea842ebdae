"""What every code generator does: features of support boxes in, one linear classifier a class out.

Shapes: S shots of all classes, C classes, D code width, h x w the size of RoI features.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from ovd.errors import UserError
from ovd.fewshot.hypernetworks.auxiliary_losses import soft_nearest_neighbour_loss


@dataclass(frozen=True, eq=False)
class RawCodes:
    """What one shot by itself says, before the shots of a class are brought together.

    Attributes:
        codes_SD: A vector a shot.
        bias_S: A bias a shot, or None.
        shot_weight_S: How much the shot is to count among its class's, before the softmax; None for equally.
        norm_S: The logarithm of the length of its class's code; None for length 1.
    """

    codes_SD: Tensor
    bias_S: Tensor | None = None
    shot_weight_S: Tensor | None = None
    norm_S: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Codes:
    """Classifiers: the logit of a feature ``x`` for class c is ``weights_CD[c] @ x + bias_C[c]``.

    Attributes:
        weights_CD: One row a class.
        bias_C: None for classifiers without.
        losses: In training, the generator's own, by name.
    """

    weights_CD: Tensor
    bias_C: Tensor | None = None
    losses: Mapping[str, Tensor] = field(default_factory=dict)


class CodeGenerator(BaseModule):
    """Base class: subclasses say what a shot gives (:meth:`raw`) and how shots make a class (:meth:`process`).

    A class may have any number of shots, each class another, and their order does not matter. In evaluation mode every
    class is made by itself: its code is the same, to the bit on a CPU, whatever other classes are asked for with it.

    Args:
        in_channels: Of the features of one pyramid level.
        out_channels: D.
        levels: The features are those of so many pyramid levels, one after the other along the channels.
        unit: Codes are unit vectors without bias: directions in an embedding space, such as CLIP's.
        contrastive: ``dict(weight=..., temperature=...)`` adds the soft nearest-neighbour loss of the shots' vectors;
            None for none.
    """

    def __init__(self, in_channels: int, out_channels: int, levels: int = 1, unit: bool = False,
                 contrastive: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.levels = levels
        self.unit = unit
        self.contrastive = None if contrastive is None else {"weight": 1.0, "temperature": 0.1, **contrastive}

    def raw(self, features_SChw: Tensor) -> RawCodes:
        """What each shot says by itself.

        Args:
            features_SChw: RoI features of support boxes, ``[S, levels * in_channels, h, w]``.
        """
        raise NotImplementedError

    def process(self, raw: RawCodes, class_of_S: Tensor, num_classes: int) -> Codes:
        """From shots to classes.

        Args:
            raw: As :meth:`raw` gives it.
            class_of_S: Long, each shot's class, 0 to ``num_classes - 1``; every class has a shot.
        """
        raise NotImplementedError

    def forward(self, features_SChw: Tensor, class_of_S: Tensor, num_classes: int) -> Codes:
        """Codes of C classes from RoI features of their support boxes.

        Args:
            features_SChw: ``[S, levels * in_channels, h, w]``.
            class_of_S: Long, each shot's class.
            num_classes: C.

        Raises:
            UserError: Features of another width; a class without shots, or a label that is no class.
        """
        self._check(features_SChw, class_of_S, num_classes)
        if self.training:
            raw = self.raw(features_SChw)
            codes = self.process(raw, class_of_S, num_classes)
            return Codes(codes.weights_CD, codes.bias_C, self._losses(raw, class_of_S))
        parts = []
        for label in range(num_classes):
            raw = self.raw(features_SChw[class_of_S == label])
            parts.append(self.process(raw, class_of_S.new_zeros(len(raw.codes_SD)), 1))
        biases = [part.bias_C for part in parts]
        return Codes(torch.cat([part.weights_CD for part in parts]), None if biases[0] is None else torch.cat(biases))

    def _losses(self, raw: RawCodes, class_of_S: Tensor) -> dict[str, Tensor]:
        if self.contrastive is None:
            return {}
        loss = soft_nearest_neighbour_loss(raw.codes_SD, class_of_S, self.contrastive["temperature"])
        return {"loss_contrastive": self.contrastive["weight"] * loss}

    def _check(self, features_SChw: Tensor, class_of_S: Tensor, num_classes: int) -> None:
        width = self.levels * self.in_channels
        if features_SChw.ndim != 4 or features_SChw.shape[1] != width:
            raise UserError(f"code generator: features of shape {list(features_SChw.shape)}, needed are "
                            f"[shots, {width}, h, w]")
        if class_of_S.shape != features_SChw.shape[:1]:
            raise UserError(f"code generator: {len(features_SChw)} shots, but {len(class_of_S)} labels")
        if len(class_of_S) and not 0 <= int(class_of_S.min()) <= int(class_of_S.max()) < num_classes:
            raise UserError(f"code generator: labels {int(class_of_S.min())} to {int(class_of_S.max())} for "
                            f"{num_classes} classes")
        empty = (torch.bincount(class_of_S, minlength=num_classes) == 0).nonzero()
        if len(empty):
            raise UserError(f"code generator: class {int(empty[0])} of {num_classes} has no support box; give it one")


def bias_of_probability(probability: float) -> float:
    """The bias with which a zero logit becomes that probability (RetinaNet's prior: 0.01 gives -4.595).

    Raises:
        UserError: It is no number between 0 and 1.
    """
    if not 0 < probability < 1:
        raise UserError(f"code generator: prior={probability}, expected a probability between 0 and 1")
    return -math.log((1 - probability) / probability)


def init_normal(module: nn.Module, std: float = 0.01) -> None:
    """Weights of convolutions and linear layers from N(0, std), biases 0."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
