"""RoIAlign (Mask R-CNN, sec. 3): of the bilinear samples in each bin the average (torchvision) or maximum (PyTorch)."""

import torch
from torch import Tensor

from ovd.ops.bilinear import SampleGrid, corners, planes
from ovd.ops.precision import at_least_float32

MAX = 0  # mmcv's pool_mode; 1 is the average


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill ``output`` with the pooled features of K regions in P x Q bins each.

    Args:
        input: [B, C, H, W].
        rois: [K, 5] image's index in the batch and xyxy in image pixels.
        output: [K, C, P, Q].
        argmax_y, argmax_x: as ``output``, for the maximum: row and column, in the bin's grid of samples, of the one
            that was taken; -1 in a bin without samples, whose output is 0. Empty tensors for the average.
        aligned_height, aligned_width: P, Q.
        spatial_scale: feature pixels per image pixel.
        sampling_ratio: samples along each side of a bin; 0 or less for as many as the bin covers feature pixels.
        pool_mode: 0 for the maximum, 1 for the average.
        aligned: whether positions are moved by half a pixel, from pixels' borders to their centres.
    """
    features, rois = at_least_float32(input), at_least_float32(rois)
    if pool_mode == MAX:
        grid = SampleGrid.of(rois, aligned_height, aligned_width, spatial_scale, sampling_ratio, aligned)
        for buffer, values in zip((output, argmax_y, argmax_x), _largest(features, rois, grid), strict=True):
            buffer.copy_(values)
        return
    size = (aligned_height, aligned_width)
    output.copy_(
        torch.ops.torchvision.roi_align(
            features, rois.to(features.dtype), spatial_scale, *size, sampling_ratio, aligned
        )
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient with regard to ``input`` to ``grad_input`` [B, C, H, W]; arguments as in the forward pass.

    torchvision's average adds up in no fixed order on a GPU. Under ``torch.use_deterministic_algorithms`` a slower,
    deterministic sum in PyTorch replaces it.
    """
    grad, rois = at_least_float32(grad_output), at_least_float32(rois)
    size = (aligned_height, aligned_width)
    if pool_mode == MAX:
        grid = SampleGrid.of(rois, *size, spatial_scale, sampling_ratio, aligned)
        result = _largest_backward(grad, rois, grid, argmax_y, argmax_x, grad_input.shape)
    elif grad.is_cuda and torch.are_deterministic_algorithms_enabled():
        grid = SampleGrid.of(rois, *size, spatial_scale, sampling_ratio, aligned)
        result = average_backward(grad, rois, grid, grad_input.shape)
    else:
        result = torch.ops.torchvision._roi_align_backward(
            grad, rois.to(grad.dtype), spatial_scale, *size, *grad_input.shape, sampling_ratio, aligned
        )
    grad_input.add_(result)


def average_backward(grad: Tensor, rois: Tensor, grid: SampleGrid, shape: torch.Size) -> Tensor:
    """Gradient [B, C, H, W] of the average from that of the output, [K, C, P, Q], in a fixed order of summation."""
    grad = grad / (grid.y.samples * grid.x.samples).clamp(min=1)
    result = grad.new_zeros(shape)
    for iy, ix, exists in grid.steps():
        _spread(result, grad * exists, rois, grid.y.position(iy), grid.x.position(ix))
    return result


def _largest(features: Tensor, rois: Tensor, grid: SampleGrid) -> tuple[Tensor, Tensor, Tensor]:
    """Each bin's largest sample with its row and column, [K, C, P, Q]."""
    height, width = features.shape[2:]
    pixels, plane = features.flatten(), planes(rois, features.shape)
    shape = (len(rois), features.shape[1], len(grid.y.bins), len(grid.x.bins))
    best = features.new_full(shape, -torch.inf)
    row, column = features.new_full(shape, -1), features.new_full(shape, -1)
    for iy, ix, exists in grid.steps():
        around = corners(grid.y.position(iy), grid.x.position(ix), height, width)
        value = sum(pixels[plane + pixel] * weight for pixel, weight in around)
        better = exists & (value > best)
        best = torch.where(better, value, best)
        row, column = row.masked_fill(better, iy), column.masked_fill(better, ix)
    return best.masked_fill(row < 0, 0), row, column


def _largest_backward(
    grad: Tensor, rois: Tensor, grid: SampleGrid, row: Tensor, column: Tensor, shape: torch.Size
) -> Tensor:
    row, column = at_least_float32(row), at_least_float32(column)
    result = grad.new_zeros(shape)
    _spread(result, grad * (row >= 0), rois, grid.y.position(row), grid.x.position(column))
    return result


def _spread(result: Tensor, grad: Tensor, rois: Tensor, y: Tensor, x: Tensor) -> None:
    """Add to ``result`` [B, C, H, W] the gradients [K, C, P, Q] of bilinear samples at (y, x)."""
    plane = planes(rois, result.shape)
    for pixel, weight in corners(y, x, *result.shape[2:]):
        share = grad * weight
        at = (plane + pixel).expand(share.shape)
        result.view(-1).index_add_(0, at.flatten(), share.flatten().to(result.dtype))
