"""From what FCOS sees in an image, whatever the vocabulary, to detections of the classes of a class head.

Shapes: B images, N locations of all levels, D width of class features, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from ovd.models.postprocess import suppress
from ovd.stores.class_heads import ClassHead
from ovd.stores.scoring import sigmoid


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a detector of classes given by rows has to say about images before it is told the classes.

    Attributes:
        features_BND: Float32; a class's logit is its row's product with it, plus its bias.
        boxes_BN4: xyxy in input pixels, inside the image.
        quality_BN: How well a box is placed, 0 to 1; 0 for boxes outside the image.
        level_sizes: Number of locations of each level; they add up to N.
    """

    features_BND: Tensor
    boxes_BN4: Tensor
    quality_BN: Tensor
    level_sizes: tuple[int, ...]

    def detect(self, image: int, head: ClassHead, *, score_thr: float, nms_pre: int, iou_threshold: float,
               max_per_img: int) -> InstanceData:
        """Detections of the classes of ``head`` in an image, in input pixels, by falling score.

        Args:
            image: Its place in the batch.
            score_thr: Lowest class probability.
            nms_pre: Candidates (box and class) of each level.
            iou_threshold: Of suppression within a class.
            max_per_img: Most detections.

        Returns:
            ``bboxes [n, 4]``, ``scores [n]`` (square root of probability times quality) and ``labels [n]``.
        """
        probability_NC = sigmoid(head.logits(self.features_BND[image]))
        quality_N = self.quality_BN[image]
        picked = [self._candidates(probability_nC, quality_n, score_thr, nms_pre) for probability_nC, quality_n in zip(
            probability_NC.split(self.level_sizes), quality_N.split(self.level_sizes))]
        starts = torch.tensor((0, *self.level_sizes)).cumsum(0)[:-1].tolist()
        scores = torch.cat([scores for scores, _, _ in picked])
        rows = torch.cat([rows + start for (_, rows, _), start in zip(picked, starts)])
        labels = torch.cat([labels for _, _, labels in picked])
        boxes = self.boxes_BN4[image][rows]
        keep = suppress(boxes, scores, labels, iou_threshold)[:max_per_img]
        return InstanceData(bboxes=boxes[keep], scores=scores[keep], labels=labels[keep])

    @staticmethod
    def _candidates(probability_nC: Tensor, quality_n: Tensor, score_thr: float,
                    nms_pre: int) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, locations and classes of a level's best (box, class) pairs."""
        rows, labels = ((probability_nC > score_thr) & (quality_n > 0)[:, None]).nonzero(as_tuple=True)
        scores = (probability_nC[rows, labels] * quality_n[rows]).sqrt()
        if len(scores) > nms_pre:
            scores, best = scores.topk(nms_pre)
            rows, labels = rows[best], labels[best]
        return scores, rows, labels


def relabelled(parts: Sequence[tuple[InstanceData, Tensor]]) -> InstanceData:
    """Detections of several groups of classes as one, by falling score.

    Args:
        parts: Detections, and for each label of theirs the label in the whole vocabulary.
    """
    found = InstanceData.cat([InstanceData(bboxes=part.bboxes, scores=part.scores, labels=labels[part.labels])
                              for part, labels in parts])
    return found[found.scores.argsort(descending=True, stable=True)]
