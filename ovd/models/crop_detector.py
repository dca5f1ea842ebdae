"""A detector without training: proposals are its boxes, CLIP's opinion of their crops is its scores.

Shapes: N regions of an image, C classes, D embedding width.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from mmengine.structures import InstanceData
from torch import Tensor

from ovd.errors import UserError
from ovd.models.fusion import geometric_fusion
from ovd.models.postprocess import class_wise_nms
from ovd.models.vild_head import one_label
from ovd.stores.class_heads import ClassHead
from ovd.stores.shards import Regions


@dataclass(frozen=True)
class CropDetector:
    """CLIP on cropped regions (ViLD, sec. 3.1 and table 3): softmax over all classes of cos / T, without a background.

    A CLIP that was trained with sigmoids (SigLIP) judges each class by itself, with its own scale and bias.

    Attributes:
        head: The classes, of the CLIP that embedded the regions.
        objectness: Scores are the geometric mean of class probability and proposal score, instead of the former alone.
        temperature: Of the softmax; None for the head's own, which is its CLIP's (0.01 for OpenAI's).
        score_thr, nms_iou, max_per_image: See :func:`ovd.models.postprocess.class_wise_nms`.
    """

    head: ClassHead
    objectness: bool = False
    temperature: float | None = None
    score_thr: float = 1e-4
    nms_iou: float = 0.5
    max_per_image: int = 100
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        if self.temperature is None:
            return
        if not self.temperature > 0:
            raise UserError(f"temperature {self.temperature}: needs a number above 0")
        if self.head.stats.get("scores") == "sigmoid":
            raise UserError("temperature: the class head's CLIP has sigmoid scores, whose scale belongs to their bias; "
                            "leave it out")
        object.__setattr__(self, "head", replace(self.head, scale=1 / self.temperature))

    def scores(self, regions: Regions) -> Tensor:
        """Class scores ``[N, C]``.

        Raises:
            UserError: Objectness is asked for and the proposals' scores are not between 0 and 1.
        """
        embeddings_ND = torch.from_numpy(regions.embeddings.astype(np.float32)).to(self.device)
        scores_NC = self.head.probabilities(embeddings_ND)
        if not self.objectness or not len(regions):
            return scores_NC
        low, high = regions.scores.min(), regions.scores.max()
        if not 0 <= low <= high <= 1:
            raise UserError(f"objectness: the proposals have scores from {low:.3g} to {high:.3g}, which are no "
                            "probabilities; do without it, or take other proposals")
        objectness_NC = torch.from_numpy(regions.scores.copy()).to(self.device)[:, None].expand_as(scores_NC)
        return geometric_fusion(scores_NC, objectness_NC, torch.full((len(self.head),), 0.5, device=self.device))

    def detect(self, regions: Regions, with_one_label: bool = False) -> dict[str, InstanceData]:
        """``pred_instances`` (boxes in original pixels) and, on request, ``pred_one_label``, where every region votes
        for its highest class only."""
        boxes_N4 = torch.from_numpy(regions.boxes.copy()).to(self.device)
        scores_NC = self.scores(regions)
        limits = self.score_thr, self.nms_iou, self.max_per_image
        found = {"pred_instances": class_wise_nms(boxes_N4, scores_NC, *limits)}
        if with_one_label:
            found["pred_one_label"] = class_wise_nms(boxes_N4, one_label(scores_NC), *limits)
        return found
