"""The cosine classifier of TFA as a last layer for mmdet's box heads.

Shapes: N regions, F features, K rows (classes, and where the head has one the background last).
"""

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from ovd.errors import UserError


@MODELS.register_module()
class CosineLinear(nn.Module):
    """``s * <x / (|x| + eps), w / (|w| + eps)>`` (Wang et al., "Frustratingly Simple Few-Shot Object Detection", 2020).

    For ``cls_predictor_cfg`` of a box head. The weights that are learned and saved are not normalised: gradients go
    through their norms, and a row keeps its length.

    Args:
        in_features: F.
        out_features: K.
        scale: s; 20 in the paper.
        learn_scale: Whether s is a parameter (of the name ``scale``) that begins with this value.
        eps: 1e-5 in the authors' code.

    Attributes:
        weight: ``[K, F]``.

    Raises:
        UserError: A scale that is not above 0.
    """

    bias = None  # there is none, which initialisers of linear layers ask for

    def __init__(self, in_features: int, out_features: int, scale: float = 20.0, learn_scale: bool = False,
                 eps: float = 1e-5) -> None:
        super().__init__()
        if not scale > 0:
            raise UserError(f"CosineLinear: scale={scale!r} must be above 0")
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.scale = nn.Parameter(torch.tensor(float(scale))) if learn_scale else float(scale)
        self.eps = eps
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, features_NF: Tensor) -> Tensor:
        """Logits, float32 ``[N, K]``, also under autocast."""
        with torch.autocast(features_NF.device.type, enabled=False):
            return self.scale * self._unit(features_NF.float()) @ self._unit(self.weight.float()).T

    def _unit(self, rows: Tensor) -> Tensor:
        return rows / (rows.norm(dim=1, keepdim=True) + self.eps)
