"""What an episode asks of its codes: to tell the queries' regions apart, as the detector will with them.

Shapes: N regions, E classes of the episode, C classes of the detector (base first), K = C + 1 with background.
"""

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from ovd.errors import UserError, nearest

KINDS = ("softmax", "focal")


@MODELS.register_module()
class EpisodeLoss(BaseModule):
    """The loss of codes on the query regions of an episode.

    - ``"softmax"``: cross-entropy over what the detector compares a region with at test: the codes, in the columns of
      their classes, the text rows of all other base classes, and the background. Codes learn to stand beside names.
    - ``"focal"``: a yes or no to each code alone (sigmoid focal loss as in Sylph), ``cos / T - bias``.

    Args:
        kind: One of :data:`KINDS`.
        bias: Of ``"focal"``: the logit of a code at cosine 0 is ``-bias``.
        gamma, alpha: Of ``"focal"``.

    Raises:
        UserError: Unknown kind.
    """

    def __init__(self, kind: str = "softmax", bias: float = 15.0, gamma: float = 2.0, alpha: float = 0.25) -> None:
        super().__init__()
        if kind not in KINDS:
            raise UserError(f"model.episode_loss.kind: {kind!r} is no loss{nearest(kind, KINDS)}")
        self.kind, self.bias, self.gamma, self.alpha = kind, bias, gamma, alpha

    def forward(self, code_logits_NE: Tensor, detector_logits_NK: Tensor, targets_N: Tensor,
                columns_E: Tensor) -> Tensor:
        """A number.

        Args:
            code_logits_NE: Cosines to the codes over the temperature.
            detector_logits_NK: The detector's own logits, in training mode.
            targets_N: Each region's class as a column of these.
            columns_E: The columns of the episode's classes.
        """
        if self.kind == "softmax":
            return F.cross_entropy(detector_logits_NK.index_copy(1, columns_E, code_logits_NE), targets_N)
        truth_NE = (targets_N[:, None] == columns_E).to(code_logits_NE.dtype)
        total = sigmoid_focal_loss(code_logits_NE - self.bias, truth_NE, self.alpha, self.gamma, reduction="sum")
        return total / truth_NE.sum().clamp(min=1)


def detector_targets(labels_N: Tensor, columns_E: Tensor, background: int) -> Tensor:
    """Labels of an episode as columns of the detector.

    Args:
        labels_N: 0 to E - 1 for the episode's classes, E + column for others, -1 for the background.
        columns_E: As in :meth:`EpisodeLoss.forward`.
        background: The background's column.
    """
    known_N = torch.where(labels_N >= len(columns_E), labels_N - len(columns_E), background)
    own_N = (labels_N >= 0) & (labels_N < len(columns_E))
    return torch.where(own_N, columns_E[labels_N.clamp(0, len(columns_E) - 1)], known_N)
