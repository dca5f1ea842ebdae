"""Positional embeddings of an image tower at another grid than it was trained with."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_positions(embedding_LC: Tensor, height: int, width: int) -> Tensor:
    """Positional embeddings of a class token and a square grid, for a grid of ``height`` x ``width``.

    The grid's are interpolated bilinearly; the class token's, the first row, is kept (OADP, Wang et al. 2023).

    Args:
        embedding_LC: ``[1 + g * g, C]``.

    Returns:
        ``[1 + height * width, C]``; the same values where the grid is the same.
    """
    side = math.isqrt(len(embedding_LC) - 1)
    if (height, width) == (side, side):
        return embedding_LC
    grid = embedding_LC[1:].T.reshape(1, -1, side, side).float()
    grid = F.interpolate(grid, (height, width), mode="bilinear", align_corners=False)
    return torch.cat([embedding_LC[:1], grid[0].flatten(1).T.to(embedding_LC.dtype)])
