"""The number format that the replacement operators compute in."""

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """``values``, raised to float32 if they are float16 or bfloat16; float64 stays.

    Half precision has too few digits for coordinates (in bfloat16, 1000 and 1003 pixels are the same) and for sums of
    gradients, and some of torchvision's kernels do not take it. Results go back to the format of mmcv's buffers.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))
