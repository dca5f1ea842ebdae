"""Losses of OADP's block and global heads (Wang et al., CVPR 2023, sec. 3.3 and 3.4).

Shapes: R regions of all images on this device, D embedding width, C classes.
"""

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor, nn


class WarmedUpLoss(nn.Module):
    """A loss with a weight that rises linearly from ``weight / warmup`` over the first ``warmup`` iterations.

    The count is a buffer, saved with the weights, so a resumed run goes on where it was.
    """

    def __init__(self, weight: float, warmup: int) -> None:
        super().__init__()
        self.weight = weight
        self.warmup = warmup
        self.register_buffer("iterations", torch.zeros((), dtype=torch.long))

    def factor(self) -> float | Tensor:
        """The weight now; each call in training mode is one iteration."""
        reached = ((self.iterations + 1) / self.warmup).clamp(max=1.0) if self.warmup else 1.0
        if self.training:
            self.iterations += 1
        return self.weight * reached


@MODELS.register_module()
class RelationDistillationLoss(WarmedUpLoss):
    """The regions' cosines to one another, as CLIP has them: the mean squared difference of both Gram matrices.

    Args:
        weight, warmup: 8 and 200 in OADP's released configuration.
    """

    def __init__(self, weight: float = 8.0, warmup: int = 200) -> None:
        super().__init__(weight, warmup)

    def forward(self, student_RD: Tensor, teacher_RD: Tensor) -> Tensor:
        """A float32 scalar; exactly 0 without regions.

        Args:
            student_RD: Unit rows from the detector.
            teacher_RD: Unit rows from the cache, any floating type.
        """
        with torch.autocast(student_RD.device.type, enabled=False):
            student_RD, teacher_RD = student_RD.float(), teacher_RD.float()
            difference = student_RD @ student_RD.T - teacher_RD @ teacher_RD.T
        return self.factor() * difference.square().sum() / max(difference.numel(), 1)


@MODELS.register_module()
class ImageDistillationLoss(WarmedUpLoss):
    """Squared difference of unit embeddings: the **sum** over the D entries, averaged over images.

    OADP's released configuration sums over the images too, with weight 0.5 and 2 images a device: weight 1 here. The
    mean makes the weight independent of the batch.

    Args:
        weight, warmup: See above; warm-up 200 there.
    """

    def __init__(self, weight: float = 1.0, warmup: int = 200) -> None:
        super().__init__(weight, warmup)

    def forward(self, student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
        """A float32 scalar, of unit rows of one row an image."""
        distance = (student_ND.float() - teacher_ND.float()).square().sum()
        return self.factor() * distance / max(len(student_ND), 1)


@MODELS.register_module()
class AsymmetricLoss(WarmedUpLoss):
    """Multi-label classification in which easy negatives count for little (Ridnik et al., ICCV 2021, eq. 4 to 7).

    With ``p`` the sigmoid of a logit: ``-(1 - p)**gamma_pos * log(p)`` where the label holds, else ``-q**gamma_neg *
    log(1 - q)`` with ``q = max(p - clip, 0)``; averaged over regions and classes.

    Args:
        weight, warmup: 16 and 1000 (blocks), 4 and 2000 (images) in OADP's released configuration.
        clip: Probability below which a negative counts for nothing.
    """

    def __init__(self, weight: float = 1.0, warmup: int = 0, gamma_neg: float = 4.0, gamma_pos: float = 0.0,
                 clip: float = 0.0) -> None:
        super().__init__(weight, warmup)
        self.gamma_neg, self.gamma_pos, self.clip = gamma_neg, gamma_pos, clip

    def forward(self, logits_RC: Tensor, labels_RC: Tensor) -> Tensor:
        """A float32 scalar; exactly 0 without regions.

        Args:
            labels_RC: bool.
        """
        logits = logits_RC.float()
        probabilities = logits.sigmoid()
        positive = F.logsigmoid(logits) * (1 - probabilities) ** self.gamma_pos
        if self.clip:
            probabilities = (probabilities - self.clip).clamp(min=0)
            log_rest = torch.log1p(-probabilities)
        else:
            log_rest = F.logsigmoid(-logits)
        negative = log_rest * probabilities ** self.gamma_neg
        return -self.factor() * torch.where(labels_RC, positive, negative).sum() / max(logits.numel(), 1)
