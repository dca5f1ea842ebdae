"""Pillow's bicubic resize of many windows of one image, as two batched dense products.

A resize is linear along each axis: for a window of height and width P, ``rows[S, P] @ pixels[P, P] @ cols[P, S]`` with
few weights in a column. As dense products over windows padded to equal sizes that is little work for a GPU, and few
launches.

Shapes: M windows, S side of the result, H and W of the image, Y and X the padded size of windows.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ovd.clip.bicubic import dense_weights, most_taps, source_windows

# Products of these weights with 8-bit values less 128, and sums of them, are integers below 2 ** 24 in units of the
# last bit (the weights of an output add up to less than 2 in magnitude). So float32 holds every partial sum exactly,
# and neither the order of summation, nor the device, nor what else is in the batch can change a result.
_WEIGHT_BITS = 16
_MIDDLE = 128
_POWERS = 2 ** np.arange(4, 24)
_SIZES = np.sort(np.concatenate([_POWERS, _POWERS[1:] * 3 // 2]))


def resize_windows(image_HW3: Tensor, windows_M4: np.ndarray, views_M4: np.ndarray, side: int,
                   dtype: torch.dtype = torch.float32, memory: int = 256 << 20) -> Tensor:
    """Resize each window, and keep a square view of the result.

    With float32 products the result is the same to the bit on every device, unless these may use TF32
    (``torch.backends.cuda.matmul``), which is about as exact as float16 here.

    Args:
        image_HW3: uint8.
        windows_M4: int64, xyxy in whole pixels. What lies outside the image is black.
        views_M4: int64, width and height of the whole resized window; left and top of the view in it.
        side: Of the view, in pixels.
        dtype: Of the products: float32, or float16 where tensor cores make it worth its rounding.
        memory: Bytes that a chunk of windows may take up while it is resized; one window is the least.

    Returns:
        uint8 ``[M, S, S, 3]`` on the image's device.
    """
    device = image_HW3.device
    out_MSS3 = torch.empty(len(windows_M4), side, side, 3, dtype=torch.uint8, device=device)
    if not len(windows_M4):
        return out_MSS3
    sources_M4 = source_windows(windows_M4, views_M4, side)
    padded_M2 = _padded(sources_M4[:, 2:] - sources_M4[:, :2])
    order = np.lexsort(padded_M2.T)
    corner_M2 = windows_M4[:, :2]
    plan = np.stack([windows_M4[:, 2:] - corner_M2, views_M4[:, :2], views_M4[:, 2:], sources_M4[:, :2] - corner_M2,
                     sources_M4[:, :2]])[:, order].transpose(0, 2, 1)
    plan, order_M = (to_device(torch.from_numpy(array), device) for array in (plan.astype(np.float64), order))
    pixels = _bordered(image_HW3, dtype)
    with torch.autocast(device.type, enabled=False):
        for first, last, width, height in _chunks(padded_M2[order], side, dtype.itemsize, memory):
            part_SS = _resize(pixels, plan[:, :, first:last], width, height, side)
            out_MSS3.index_copy_(0, order_M[first:last], part_SS.transpose(2, 3))
    return out_MSS3


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor in a processor's memory to a device, which is not waited for."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _padded(sizes_M2: np.ndarray) -> np.ndarray:
    """Sizes to pad windows to: few different ones, so that there are few launches, and each by its own size alone.

    Most windows are nearly square: these go to squares, the rest to powers of two.
    """
    step_M2 = np.searchsorted(_SIZES, sizes_M2)
    square_M1 = np.ptp(step_M2, axis=1, keepdims=True) <= 1
    return np.where(square_M1, _SIZES[step_M2.max(axis=1, keepdims=True)], _POWERS[np.searchsorted(_POWERS, sizes_M2)])


def _bordered(image_HW3: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels less 128, as 8 bits with a sign, in a black border of one pixel: ``[H + 2, 3, W + 2]``."""
    height, width = image_HW3.shape[:2]
    pixels = torch.full((height + 2, 3, width + 2), -_MIDDLE, dtype=dtype, device=image_HW3.device)
    inner = pixels[1:-1, :, 1:-1]
    inner.copy_(image_HW3.transpose(1, 2)).sub_(_MIDDLE)
    return pixels


def _chunks(padded_M2: np.ndarray, side: int, itemsize: int, memory: int) -> Iterator[tuple[int, int, int, int]]:
    """Runs of windows with one padded size: first, last, width, height."""
    starts = np.flatnonzero((np.diff(padded_M2, axis=0, prepend=0) != 0).any(axis=1)).tolist()
    for start, stop in zip(starts, [*starts[1:], len(padded_M2)]):
        width, height = padded_M2[start].tolist()
        size, taps = max(width, height), most_taps(max(width, height) / side)
        pixels = 3 * itemsize * (height * width + 2 * height * side + 2 * side * side)
        weights = 2 * side * (itemsize * (size + taps) + 8 * 7 * taps)  # they are made in float64
        count = max(1, memory // (pixels + weights))
        for first in range(start, stop, count):
            yield first, min(first + count, stop), width, height


def _resize(pixels: Tensor, plan: Tensor, width: int, height: int, side: int) -> Tensor:
    """Windows of one padded size: uint8 ``[M, S, 3, S]``, channels in the middle.

    Args:
        plan: float64 ``[5, 2, M]``: in_size, out_size, start, begin of each axis, and begin in the image's pixels.
    """
    num, size = plan.shape[2], max(width, height)
    weights = dense_weights(*plan[:4].flatten(1), size, side, most_taps(size / side), _WEIGHT_BITS, pixels.dtype)
    cols_MXS, rows_MYS = weights[:num, :width], weights[num:, :height]
    begin_x, begin_y = plan[4].long().unsqueeze(2)
    x, y = (torch.arange(length, device=pixels.device) for length in (width, height))
    x_MX = (begin_x + x + 1).clamp(0, pixels.shape[2] - 1)
    y_MY = (begin_y + y + 1).clamp(0, pixels.shape[0] - 1)
    channel = torch.arange(3, device=pixels.device).view(1, 1, 3, 1)
    source_MY3X = pixels[y_MY[:, :, None, None], channel, x_MX[:, None, None, :]]
    across = _to_8_bits(source_MY3X.flatten(1, 2) @ cols_MXS)  # Pillow rounds between the passes
    down = _to_8_bits(rows_MYS.transpose(1, 2) @ across.view(num, height, 3 * side))
    return down.add_(_MIDDLE).to(torch.uint8).view(num, side, 3, side)


def _to_8_bits(sums: Tensor) -> Tensor:
    return sums.add_(0.5).floor_().clamp_(-_MIDDLE, _MIDDLE - 1)
