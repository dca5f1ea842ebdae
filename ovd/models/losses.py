"""The distillation loss: region embeddings of the detector pulled to CLIP's cached ones.

Shapes: R regions of all images on this device, D embedding width.
"""

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class RegionDistillationLoss(nn.Module):
    """L1 between unit embeddings: the **sum** over the D entries, averaged over regions (ViLD, sec. 3.3).

    The weight belongs to the sum. Code that averages over D and multiplies by 256 has the same loss as weight 0.5 here
    at D = 512, and half of it per entry at D = 1024; keeping the weight on the sum keeps the balance with the
    classification loss when the width of the embedding changes.

    Regions of all images are concatenated before the mean, so an image with few regions does not weigh as much as one
    with many.

    Args:
        weight: Factor on (sum over D, mean over regions); 0.5 for R50 in the paper.
        warmup: Iterations over which the factor rises linearly from ``weight / warmup``; 0 for none. The count is a
            buffer, saved with the weights, so a resumed run goes on where it was.
    """

    def __init__(self, weight: float = 0.5, warmup: int = 200) -> None:
        super().__init__()
        self.weight = weight
        self.warmup = warmup
        self.register_buffer("iterations", torch.zeros((), dtype=torch.long))

    def forward(self, student_RD: Tensor, teacher_RD: Tensor) -> Tensor:
        """Weighted loss, a float32 scalar; each call in training mode is one iteration of the warm-up.

        With no regions it is an exact zero that still depends on ``student_RD``, so every rank has the same graph.

        Args:
            student_RD: Unit rows from the detector.
            teacher_RD: Unit rows from the cache, any floating type.
        """
        factor = self.weight
        if self.warmup:
            factor = self.weight * ((self.iterations + 1) / self.warmup).clamp(max=1.0)
        if self.training:
            self.iterations += 1
        distance = (student_RD.float() - teacher_RD.float()).abs().sum()
        return factor * distance / max(len(student_RD), 1)
