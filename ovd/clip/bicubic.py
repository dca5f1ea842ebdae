"""Pillow's antialiased bicubic resize: the weights of its output pixels, and any window of its output.

CLIP resizes the short side of a crop and keeps the centre square. Of a crop one pixel wide and five hundred tall that
square is a five-hundredth part of the resized image, so making the whole of it would cost gigabytes and seconds.

Shapes: M resizes of one axis each, S output pixels that are wanted of each, P source pixels.
"""

import math

import numpy as np
import torch
from torch import Tensor

_SUPPORT = 2.0  # of the cubic kernel, in source pixels at scale one
_PRECISION_BITS = 22  # Pillow keeps 8-bit weights as integers with this many fractional bits


def resize_window(pixels: np.ndarray, width: int, height: int, left: int, top: int, side: int) -> np.ndarray:
    """What ``Image.resize((width, height), BICUBIC).crop((left, top, left + side, top + side))`` gives, to the bit.

    Rows are resized first. Pillow 12.3 does columns first where the image is a hundred times taller than wide and
    becomes less tall: the rounding between the passes then falls elsewhere.

    Args:
        pixels: uint8 ``[H, W, C]``.
        width, height: Of the whole resized image.
        left, top, side: The window of it, in its pixels.

    Returns:
        uint8 ``[side, side, C]``.
    """
    first_row, rows = _weights_of_one(pixels.shape[0], height, top, side)
    first_col, cols = _weights_of_one(pixels.shape[1], width, left, side)
    source = pixels[first_row:first_row + len(rows), first_col:first_col + len(cols)]
    across = _to_uint8(np.einsum("wo,hwc->hoc", cols, source.astype(np.float64)))  # Pillow rounds between the passes
    return _to_uint8(np.einsum("ho,hwc->owc", rows, across.astype(np.float64)))


def source_windows(windows_M4: np.ndarray, views_M4: np.ndarray, side: int) -> np.ndarray:
    """The part of each window that its view draws on, int64 ``[M, 4]`` xyxy.

    Args:
        windows_M4: int64, xyxy in whole pixels.
        views_M4: int64, width and height of the whole resized window; left and top, in it, of the view.
        side: Of the view, in pixels.
    """
    corner_M2, size_M2 = windows_M4[:, :2], windows_M4[:, 2:] - windows_M4[:, :2]
    axes = (torch.from_numpy(array.astype(np.float64)).flatten() for array in (size_M2, views_M4[:, :2],
                                                                               views_M4[:, 2:]))
    spans = (span.long().view(-1, 2).numpy() for span in _source_span(*axes, side))
    return np.concatenate([corner_M2 + span for span in spans], axis=1)


def most_taps(scale: float) -> int:
    """Source pixels under the kernel, at the most, where ``scale`` source pixels become one."""
    return math.floor(2 * _SUPPORT * max(scale, 1.0)) + 2


def dense_weights(in_size_M: Tensor, out_size_M: Tensor, start_M: Tensor, begin_M: Tensor, size: int, side: int,
                  taps: int, bits: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Weights of source positions ``begin`` to ``begin + size`` in outputs ``start`` to ``start + side``.

    As Pillow does, they are rounded to ``bits`` bits after the point, halves away from zero.

    Args:
        in_size_M: Source pixels of the axis; float64 as the next three, so that nothing is lost in divisions.
        out_size_M: Pixels of the whole resized axis.
        start_M: First wanted output pixel.
        begin_M: First source position that they draw on.
        size: At least how many they draw on.
        side: How many outputs are wanted.
        taps: At least :func:`most_taps` of every resize.

    Returns:
        ``[M, size, side]``, zero where a source pixel does not count. Each output's weights add up to about one.
    """
    centres_MS, stretch_M1 = _centres(in_size_M, out_size_M, start_M, side)
    first_MS, last_MS = _reach(centres_MS, stretch_M1, in_size_M)
    steps_T1 = torch.arange(taps, dtype=torch.float64, device=in_size_M.device).unsqueeze(1)
    position_MTS = first_MS.unsqueeze(1) + steps_T1
    weights_MTS = _cubic((position_MTS - centres_MS.unsqueeze(1) + 0.5) * (1.0 / stretch_M1).unsqueeze(1))
    weights_MTS.masked_fill_(position_MTS >= last_MS.unsqueeze(1), 0.0)
    weights_MTS /= weights_MTS.cumsum(1)[:, -1:]  # added in Pillow's order
    weights_MTS *= 1 << bits
    weights_MTS = weights_MTS.abs().add_(0.5).floor_().mul_(weights_MTS.sign()).div_(1 << bits).to(dtype)
    dense_MPS = weights_MTS.new_zeros(len(in_size_M), size + taps, side)  # taps without weight may lie behind the last
    dense_MPS.scatter_(1, (position_MTS - begin_M.view(-1, 1, 1)).long(), weights_MTS)
    return dense_MPS[:, :size]


def _source_span(in_size_M: Tensor, out_size_M: Tensor, start_M: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """First source position, and the one after the last, that the wanted outputs draw on: ``[M]``."""
    begin_MS, end_MS = _reach(*_centres(in_size_M, out_size_M, start_M, side), in_size_M)
    return begin_MS[:, 0], end_MS[:, -1]


def _centres(in_size_M: Tensor, out_size_M: Tensor, start_M: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Of the wanted outputs, in source pixels, ``[M, S]``; and the kernel's stretch ``[M, 1]``, which is what makes
    the resize antialiased: it widens when the image shrinks."""
    scale_M1 = (in_size_M / out_size_M).unsqueeze(1)
    outputs_S = torch.arange(side, dtype=torch.float64, device=in_size_M.device)
    return (start_M.unsqueeze(1) + outputs_S + 0.5) * scale_M1, scale_M1.clamp(min=1.0)


def _reach(centres_MS: Tensor, stretch_M1: Tensor, in_size_M: Tensor) -> tuple[Tensor, Tensor]:
    reach_M1 = _SUPPORT * stretch_M1
    first_MS = torch.trunc(centres_MS - reach_M1 + 0.5).clamp(min=0)
    return first_MS, torch.minimum(torch.trunc(centres_MS + reach_M1 + 0.5), in_size_M.unsqueeze(1))


def _weights_of_one(in_size: int, out_size: int, start: int, side: int) -> tuple[int, np.ndarray]:
    """First source position with a weight, and the weights, float64 ``[P, S]``; sums of them times 8-bit values are
    exact."""
    axis = [torch.tensor([value], dtype=torch.float64) for value in (in_size, out_size, start)]
    begin, end = _source_span(*axis, side)
    weights = dense_weights(*axis, begin, int(end - begin), side, most_taps(in_size / out_size), _PRECISION_BITS)
    return int(begin), weights[0].numpy()


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -1/2."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, 0.0))


def _to_uint8(sums: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(sums + 0.5), 0, 255).astype(np.uint8)
