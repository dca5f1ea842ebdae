"""Pillow's antialiased bicubic resize, for a window of the output only, to the last bit.

CLIP resizes the short side of a crop and keeps the centre square. Of a crop one pixel wide and five hundred tall that
square is a five-hundredth part of the resized image, so making the whole of it would cost gigabytes and seconds.
"""

import numpy as np

_SUPPORT = 2.0  # of the cubic kernel, in source pixels at scale one
_PRECISION_BITS = 22  # Pillow keeps 8-bit weights as integers with this many fractional bits


def resize_window(pixels: np.ndarray, width: int, height: int, left: int, top: int, side: int) -> np.ndarray:
    """What ``Image.resize((width, height), BICUBIC).crop((left, top, left + side, top + side))`` gives.

    Args:
        pixels: uint8 ``[H, W, C]``.
        width, height: Of the whole resized image.
        left, top, side: The window of it, in its pixels.

    Returns:
        uint8 ``[side, side, C]``.
    """
    first_row, rows = resize_weights(pixels.shape[0], height, top, top + side)
    first_col, cols = resize_weights(pixels.shape[1], width, left, left + side)
    source = pixels[first_row:first_row + rows.shape[1], first_col:first_col + cols.shape[1]]
    across = _to_uint8(np.einsum("ow,hwc->hoc", cols, source.astype(np.float64)))  # Pillow rounds between the passes
    return _to_uint8(np.einsum("oh,hwc->owc", rows, across.astype(np.float64)))


def resize_weights(in_size: int, out_size: int, start: int, stop: int) -> tuple[int, np.ndarray]:
    """Weights of one axis, for the output positions ``start`` to ``stop``.

    Returns:
        The first source position that has a weight, and the fixed-point weights, float64 with integer values,
        ``[stop - start, number of source positions]``. Sums of them times 8-bit values are exact in float64.
    """
    scale = in_size / out_size
    stretch = max(scale, 1.0)  # the kernel widens when the image shrinks: this is the antialiasing
    centres = (np.arange(start, stop) + 0.5) * scale
    first = np.maximum((centres - _SUPPORT * stretch + 0.5).astype(int), 0)
    last = np.minimum((centres + _SUPPORT * stretch + 0.5).astype(int), in_size)
    begin, end = int(first.min()), int(last.max())
    positions = np.arange(begin, end)
    weights = _cubic((positions - centres[:, None] + 0.5) * (1.0 / stretch))
    weights[(positions < first[:, None]) | (positions >= last[:, None])] = 0.0
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # added in Pillow's order
    fixed = weights * (1 << _PRECISION_BITS)
    return begin, np.trunc(fixed + np.where(fixed < 0, -0.5, 0.5))


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -1/2."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _to_uint8(sums: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(sums / (1 << _PRECISION_BITS) + 0.5), 0, 255).astype(np.uint8)
