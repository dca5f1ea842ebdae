"""Non-maximum suppression: hard, soft and matching.

Soft and matching NMS are sequential; as in mmcv they run on the CPU, here in NumPy with a vectorised step per kept box.
"""

import numpy as np
import torch
import torchvision
from torch import Tensor

from ovd.ops.precision import at_least_float32


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that survive hard NMS, best score first; of equal scores the earlier box goes first.

    Args:
        boxes: [N, 4] xyxy in pixels.
        scores: [N].
        iou_threshold: a box goes when its IoU with a kept, better one is above it.
        offset: 0, or 1 for boxes that are ``x2 - x1 + 1`` wide.

    Returns:
        int64 [K], on the device of ``boxes``.
    """
    boxes, scores = at_least_float32(boxes), at_least_float32(scores)
    if offset:  # moving x2 and y2 gives the areas and intersections of boxes that are x2 - x1 + offset wide
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    return torchvision.ops.nms(boxes, scores.to(boxes.dtype), iou_threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al., 2017): boxes near a kept one lose score instead of going at once.

    In turn the best remaining box is kept and the scores of those behind it are multiplied by a weight. Ties are broken
    as in mmcv: boxes are kept in one array in which a kept box changes places with the first of the rest, and a dropped
    one is replaced by the last.

    Args:
        boxes: [N, 4] xyxy in pixels, on the CPU.
        scores: [N].
        dets: [N, 5]; its first K rows receive the kept boxes and their new scores.
        iou_threshold: IoU from which methods 0 and 1 act.
        sigma: width of method 2.
        min_score: boxes whose score falls below it are dropped.
        method: 0 = weight 0 (hard NMS), 1 = weight ``1 - iou``, 2 = weight ``exp(-iou^2 / sigma)``.
        offset: 0, or 1 for boxes that are ``x2 - x1 + 1`` wide.

    Returns:
        int64 [K]: which boxes were kept, in the order of ``dets``.
    """
    boxes, scores = at_least_float32(boxes).numpy(), at_least_float32(scores).numpy()
    rest = _Boxes(boxes.copy(), offset)
    score, index = scores.copy(), np.arange(len(boxes))
    count, kept = len(boxes), 0
    while kept < count:
        best = kept + int(score[kept:count].argmax())
        for column in (rest.xyxy, rest.area, score, index):
            column[[kept, best]] = column[[best, kept]]
        iou = rest.iou(kept, slice(kept + 1, count))
        if method == 2:
            weight = np.exp(-(iou * iou) / iou.dtype.type(sigma))
        else:
            weight = np.where(iou >= iou_threshold, 1 - iou if method == 1 else 0, 1).astype(iou.dtype)
        score[kept + 1 : count] *= weight
        kept += 1

        stays = ~(score[kept:count] < min_score)
        remaining = kept + int(stays.sum())
        holes = kept + np.flatnonzero(~stays[: remaining - kept])
        fillers = remaining + np.flatnonzero(stays[remaining - kept :])[::-1]
        for column in (rest.xyxy, rest.area, score, index):
            column[holes] = column[fillers]
        count = remaining
    dets[:count, :4] = torch.from_numpy(rest.xyxy[:count])
    dets[:count, 4] = torch.from_numpy(score[:count])
    return torch.from_numpy(index[:count])


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of boxes that hard NMS would reduce to one each.

    Args:
        dets: [N, 5] xyxy in pixels and score, on the CPU.
        iou_threshold: a box joins the first group whose best box it overlaps by this IoU or more.

    Returns:
        Indices by group, groups and their members by falling score; of equal scores the earlier box goes first.
    """
    dets = at_least_float32(dets).numpy()
    order = np.argsort(-dets[:, 4], kind="stable")
    boxes = _Boxes(dets[:, :4], offset=0)
    groups = []
    while len(order):
        joins = boxes.iou(order[0], order[1:]) >= iou_threshold
        groups.append([int(order[0]), *order[1:][joins].tolist()])
        order = order[1:][~joins]
    return groups


class _Boxes:
    """xyxy [N, 4] with their areas [N]."""

    def __init__(self, xyxy: np.ndarray, offset: int):
        self.xyxy, self.offset = xyxy, offset
        self.area = (xyxy[:, 2] - xyxy[:, 0] + offset) * (xyxy[:, 3] - xyxy[:, 1] + offset)

    def iou(self, one: int, others: slice | np.ndarray) -> np.ndarray:
        """IoU of one box with others, [M]; 0 between two boxes without area, where mmcv's is NaN."""
        box, rest = self.xyxy[one], self.xyxy[others]
        size = np.minimum(box[2:], rest[:, 2:]) - np.maximum(box[:2], rest[:, :2]) + self.offset
        intersection = np.maximum(size, 0).prod(axis=1)
        union = self.area[one] + self.area[others] - intersection
        return np.divide(intersection, union, out=np.zeros_like(union), where=union != 0)
