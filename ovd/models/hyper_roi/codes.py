"""From support boxes to unit class vectors in the detector's space: the prototype, and what is learned beside it.

Shapes: S shots, C classes, D embedding width, h x w the size of RoI features.
"""

import hashlib

import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from ovd.errors import UserError
from ovd.fewshot.hypernetworks import Codes


@MODELS.register_module()
class ResidualCodes(BaseModule):
    """``w_c = normalise(p_c + m(p_c) + g_c)`` with the prototype ``p_c``, the normalised mean of the detector's unit
    embeddings of the class's shots.

    ``m`` is a small network on the prototype: what boxes and texts of one class differ in is much the same for all
    classes, and it learns that. ``g_c`` is what a code generator (:mod:`ovd.fewshot.hypernetworks`) reads from the
    shots' RoI features, which know more than their embeddings. Both are 0 at first, so training starts at prototypes.

    Without ``residual``, ``w_c = normalise(g_c)`` as in Sylph.

    Args:
        embed_dim: D.
        generator: Config of a code generator with ``out_channels=D``; None for prototype and ``m`` alone.
        hidden: Inner width of ``m``; None for no ``m``.
        residual: See above.

    Raises:
        UserError: Neither ``m`` nor a generator; a generator of another width, or one whose codes would have a bias.
    """

    def __init__(self, embed_dim: int, generator: dict | None = None, hidden: int | None = 256,
                 residual: bool = True) -> None:
        super().__init__()
        self.embed_dim, self.residual = embed_dim, residual
        self.generator = None if generator is None else MODELS.build(generator)
        if self.generator is None and (hidden is None or not residual):
            raise UserError("model.code_generator: nothing to learn: give it a generator, or residual=True and hidden")
        if self.generator is not None and self.generator.out_channels != embed_dim:
            raise UserError(f"model.code_generator.generator: codes of width {self.generator.out_channels} for "
                            f"embeddings of width {embed_dim}: set out_channels={embed_dim}")
        self.correction = None
        if residual and hidden is not None:
            self.correction = nn.Sequential(nn.Linear(embed_dim, hidden), nn.ReLU(), nn.Linear(hidden, embed_dim))
            _zero(self.correction[-1])
        if residual and self.generator is not None:
            _zero(self.generator.code)

    def forward(self, features_SChw: Tensor, embeddings_SD: Tensor, class_of_S: Tensor, num_classes: int) -> Codes:
        """Codes of C classes, unit rows without bias.

        Args:
            features_SChw: The shots' RoI features.
            embeddings_SD: The detector's unit embeddings of them.
            class_of_S: Long, each shot's class, 0 to C - 1; every class has a shot.
            num_classes: C.
        """
        weights_CD, losses = 0, {}
        if self.residual:
            weights_CD = prototypes(embeddings_SD, class_of_S, num_classes)
            if self.correction is not None:
                weights_CD = weights_CD + self.correction(weights_CD)
        if self.generator is not None:
            generated = self.generator(features_SChw, class_of_S, num_classes)
            weights_CD, losses = weights_CD + generated.weights_CD, generated.losses
        return Codes(F.normalize(weights_CD, dim=1), losses=losses)

    @property
    def kind(self) -> str:
        """What codes are made of, in words."""
        parts = ["prototype"] * self.residual + ["correction"] * (self.correction is not None)
        return " + ".join([*parts, *([] if self.generator is None else [type(self.generator).__name__])])

    def digest(self) -> str:
        """``sha256:...`` of the weights: the same for the same generator in any checkpoint."""
        sha = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            sha.update(name.encode())
            sha.update(value.detach().cpu().contiguous().numpy().tobytes())
        return f"sha256:{sha.hexdigest()}"


def prototypes(embeddings_SD: Tensor, class_of_S: Tensor, num_classes: int) -> Tensor:
    """The normalised mean of each class's unit embeddings, ``[C, D]``."""
    sums_CD = embeddings_SD.new_zeros(num_classes, embeddings_SD.shape[1]).index_add(0, class_of_S, embeddings_SD)
    return F.normalize(sums_CD, dim=1)


def _zero(layer: nn.Linear | nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
