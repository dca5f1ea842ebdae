"""The blocks of an image: windows of CLIP's input size on an image pyramid (OADP, Wang et al. 2023, sec. 3.3)."""

import numpy as np

SHRINK = 1.5  # from one level of the pyramid to the next


def block_boxes(width: int, height: int, side: int) -> np.ndarray:
    """Blocks of an image of ``width`` x ``height``, float32 ``[B, 4]`` xyxy in whole pixels of it.

    First the whole image: its centre square. Then, for the image at its own size and divided by 1.5 as long as its
    short side is not below ``side``, a sliding window of ``side`` x ``side``: evenly spaced, from edge to edge, no more
    than half a window apart. Row by row, the finest level first. An image smaller than ``side`` has its centre square
    only.

    Args:
        side: Of CLIP's input, in pixels; a block of the level that is divided by f has ``f * side`` pixels.
    """
    short = min(width, height)
    left, top = (width - short) / 2, (height - short) / 2
    boxes = [(left, top, left + short, top + short)]
    factor = 1.0
    while short / factor >= side:
        size = side * factor
        columns, rows = (_starts(extent, size) for extent in (width, height))
        boxes += [(x, y, x + size, y + size) for y in rows for x in columns]
        factor *= SHRINK
    return np.rint(np.array(boxes)).astype(np.float32)


def _starts(extent: int, size: float) -> np.ndarray:
    steps = int(np.ceil((extent - size) / (size / 2) - 1e-9))
    return np.linspace(0, extent - size, steps + 1)
