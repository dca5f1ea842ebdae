"""Boxes as annotation files have them, and as everything else does."""

from collections.abc import Sequence

import numpy as np


def corners(boxes: Sequence[Sequence[float]]) -> np.ndarray:
    """Boxes x, y, width, height as float64 ``[N, 4]`` x1, y1, x2, y2."""
    boxes_N4 = np.array(boxes, np.float64).reshape(-1, 4)
    boxes_N4[:, 2:] += boxes_N4[:, :2]
    return boxes_N4
