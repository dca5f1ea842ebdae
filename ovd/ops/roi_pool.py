"""RoIPool (Fast R-CNN, sec. 2.1), with the bins of mmcv's operator, which are not those of torchvision's.

torchvision rounds a region to whole feature pixels before cutting it into bins; mmcv does not, and counts the pixel at
``x2, y2`` in.
"""

import torch
from torch import Tensor

from ovd.ops.bilinear import planes
from ovd.ops.precision import at_least_float32


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fill ``output`` with the largest pixel in each of K regions' P x Q bins, 0 in a bin without pixels.

    Args:
        input: [B, C, H, W].
        rois: [K, 5] image's index in the batch and xyxy in image pixels.
        output: [K, C, P, Q].
        argmax: int32 as ``output``, the pixel that was taken as ``y * W + x``; -1 in a bin without pixels.
        pooled_height, pooled_width: P, Q.
        spatial_scale: feature pixels per image pixel.
    """
    features, rois = at_least_float32(input), at_least_float32(rois)
    height, width = input.shape[2:]
    top, bottom = _bin_bounds(rois[:, 2], rois[:, 4], spatial_scale, pooled_height, height)
    left, right = _bin_bounds(rois[:, 1], rois[:, 3], spatial_scale, pooled_width, width)
    top, bottom = top[:, None, :, None], bottom[:, None, :, None]
    left, right = left[:, None, None], right[:, None, None]
    pixels, plane = features.flatten(), planes(rois, input.shape)
    best = features.new_full(output.shape, -torch.inf)
    taken = torch.full_like(best, -1, dtype=torch.int64)
    largest = torch.stack([(bottom - top).max(), (right - left).max()]).tolist() if len(rois) else (0, 0)
    for dy in range(largest[0]):
        for dx in range(largest[1]):
            y, x = top + dy, left + dx
            pixel = y.clamp(max=height - 1) * width + x.clamp(max=width - 1)
            value = pixels[plane + pixel]
            better = (y < bottom) & (x < right) & (value > best)
            best = torch.where(better, value, best)
            taken = torch.where(better, pixel, taken)
    output.copy_(best.masked_fill(taken < 0, 0))
    argmax.copy_(taken)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient with regard to ``input`` to ``grad_input`` [B, C, H, W]; arguments as in the forward pass."""
    grad = at_least_float32(grad_output) * (argmax >= 0)
    at = planes(rois, grad_input.shape) + argmax.clamp(min=0)
    result = grad.new_zeros(grad_input.shape)
    result.view(-1).index_add_(0, at.flatten(), grad.flatten())
    grad_input.add_(result)


def _bin_bounds(start: Tensor, end: Tensor, scale: float, bins: int, limit: int) -> tuple[Tensor, Tensor]:
    """First pixel and one past the last of each bin, int64 [K, bins]; a region of negative extent has none."""
    start, end = (start * scale)[:, None], ((end + 1) * scale)[:, None]
    index = torch.arange(bins, device=start.device)
    bin_size = (end - start) / bins
    first = (index * bin_size + start).floor().clamp(0, limit)
    past = ((index + 1) * bin_size + start).ceil().clamp(0, limit)
    return first.long(), torch.where(end > start, past, first).long()
