"""From scored boxes to detections: per-class suppression that does not grow with the vocabulary.

Shapes: N boxes, C classes, M candidates (box, class) pairs.
"""

from mmengine.structures import InstanceData
from torch import Tensor
from torchvision.ops import nms


def class_wise_nms(boxes_N4: Tensor, scores_NC: Tensor, score_thr: float, iou_threshold: float,
                   max_per_image: int) -> InstanceData:
    """The best ``max_per_image`` detections after non-maximum suppression within each class.

    The boxes are class-agnostic, so N x C boxes are never made: candidates are (box, class) pairs above the
    threshold, and suppression starts with the highest few thousand of them. A candidate can only be suppressed by a
    higher one, so as soon as ``max_per_image`` of those survive, the answer is what suppression over all candidates
    would give; otherwise more are taken.

    Args:
        boxes_N4: xyxy in pixels.
        scores_NC: One column a class, no background.

    Returns:
        ``bboxes [n, 4]``, ``scores [n]``, ``labels [n]`` and ``roi_index [n]`` (row of ``boxes_N4``), by falling score.
    """
    num_classes = scores_NC.shape[1]
    candidates = (scores_NC.flatten() > score_thr).nonzero().squeeze(1)
    candidate_scores = scores_NC.flatten()[candidates]
    take = 8 * max_per_image
    while True:
        take = min(take, len(candidates))
        top_scores, order = candidate_scores.topk(take)
        top = candidates[order]
        rows, labels = top // num_classes, top % num_classes
        keep = suppress(boxes_N4[rows], top_scores, labels, iou_threshold)[:max_per_image]
        if len(keep) == max_per_image or take == len(candidates):
            break
        take *= 4
    rows, labels = rows[keep], labels[keep]
    return InstanceData(bboxes=boxes_N4[rows], scores=top_scores[keep], labels=labels, roi_index=rows)


def nms_with_budgets(boxes_N4: Tensor, scores_NC: Tensor, is_base_C: Tensor, score_thr: float, iou_threshold: float,
                     max_per_image: int) -> InstanceData:
    """As :func:`class_wise_nms`, with ``max_per_image`` detections of base classes and as many of the others.

    So detections of base classes do not depend on which other classes there are.
    """
    parts = []
    for chosen_C in (is_base_C, ~is_base_C):
        labels_c = chosen_C.nonzero().squeeze(1)
        part = class_wise_nms(boxes_N4, scores_NC[:, labels_c].contiguous(), score_thr, iou_threshold, max_per_image)
        part.labels = labels_c[part.labels]
        parts.append(part)
    found = InstanceData.cat(parts)
    return found[found.scores.argsort(descending=True, stable=True)]


def suppress(boxes_M4: Tensor, scores_M: Tensor, labels_M: Tensor, iou_threshold: float) -> Tensor:
    """Rows that survive suppression within each class, long ``[m]``, by falling score.

    Classes are moved apart, in double precision: far offsets would round the boxes.
    """
    if not len(boxes_M4):
        return labels_M
    boxes_M4 = boxes_M4.double()
    offsets_M = labels_M * (boxes_M4.max() - boxes_M4.min() + 1)
    return nms(boxes_M4 + offsets_M[:, None], scores_M.double(), iou_threshold)
