"""Non-maximum suppression: hard (torchvision), soft and matching (sequential, NumPy on the CPU as in mmcv)."""

import torch
import torchvision
from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that survive hard NMS, best score first; among equal scores the earlier box goes first.

    Args:
        boxes: [N, 4] xyxy in pixels, any floating type.
        scores: [N].
        iou_threshold: a box goes when its IoU with a better one is above it.
        offset: 0, or 1 for boxes whose width is ``x2 - x1 + 1``.

    Returns:
        int64 [K] on the device of ``boxes``.
    """
    boxes, scores = _at_least_float32(boxes), _at_least_float32(scores)
    if offset:  # the same areas and intersections as widths of x2 - x1 + offset
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return torchvision.ops.nms(boxes, scores.to(boxes), iou_threshold)


def softnms(*args, **kwargs):
    raise NotImplementedError


def nms_match(*args, **kwargs):
    raise NotImplementedError


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype in (torch.float32, torch.float64) else values.float()
