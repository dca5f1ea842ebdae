"""Score fusion: the geometric means by which several opinions about a region become one.

Shapes: N regions, C classes.
"""

import torch
from torch import Tensor


def geometric_fusion(first_NC: Tensor, second_NC: Tensor, weight_C: Tensor | float) -> Tensor:
    """``first ** weight * second ** (1 - weight)``, ``[N, C]``; in float32, or in float64 where an input is.

    A zero in either gives zero, except that an opinion of weight 0 has no say at all (``0 ** 0`` is 1). A class's bits
    do not depend on the other classes: by logarithms, since those of ``pow`` do (see
    :func:`ovd.stores.scoring.sigmoid`), and in float64, so that nothing is lost.

    Args:
        first_NC, second_NC: Probabilities, or scores in [0, 1]; shapes that broadcast (objectness: ``[N, 1]``).
        weight_C: Weight of the first in [0, 1]: one a class, or one for all.
    """
    dtype = torch.promote_types(torch.promote_types(first_NC.dtype, second_NC.dtype), torch.float32)
    weight_C = torch.as_tensor(weight_C, dtype=torch.float64, device=first_NC.device)
    return (_times_log(weight_C, first_NC) + _times_log(1 - weight_C, second_NC)).exp().to(dtype)


def base_novel_weights(is_base_C: Tensor, base: float, novel: float) -> Tensor:
    """Weight of each class, float32 ``[C]``: ``base`` where ``is_base_C`` (bool) is set, ``novel`` elsewhere."""
    return torch.where(is_base_C, float(base), float(novel))


def background_probability(probabilities_NC: Tensor) -> Tensor:
    """What the classes leave, ``[N]``, at least 0.

    Fused probabilities can add up to more than 1, since base and novel classes have different exponents (to 1.06 with
    lambda 2/3); the logarithm of a negative rest would make the whole region NaN.
    """
    return (1 - probabilities_NC.sum(dim=-1)).clamp(min=0)


def _times_log(weight_C: Tensor, values_NC: Tensor) -> Tensor:
    """``weight * log(values)``, 0 where the weight is 0."""
    return torch.where(weight_C == 0, 0.0, weight_C * values_NC.double().log())
