"""Losses beside detection for a code generator: shots of a class close together, codes close to trained rows.

Shapes: S shots, C classes, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_nearest_neighbour_loss(codes_SD: Tensor, class_of_S: Tensor, temperature: float = 0.1) -> Tensor:
    """How much closer shots of a class are to each other than to those of other classes (Frosst et al., "Analyzing and
    Improving Representations with the Soft Nearest Neighbor Loss", ICML 2019, eq. 1), of unit vectors.

    ``-mean_i log( sum_{j != i, same class} exp(-|x_i - x_j|^2 / T) / sum_{j != i} exp(-|x_i - x_j|^2 / T) )`` over the
    shots whose class has another; 0 where none has.

    Args:
        codes_SD: One vector a shot, of any length.
        class_of_S: Each shot's class.
        temperature: T.
    """
    unit_SD = F.normalize(codes_SD.float(), dim=-1)
    itself_SS = torch.eye(len(unit_SD), dtype=torch.bool, device=unit_SD.device)
    same_SS = (class_of_S[:, None] == class_of_S) & ~itself_SS
    anchors_S = same_SS.any(dim=1)
    if not anchors_S.any():
        return unit_SD.sum() * 0
    closeness_SS = (-(2 - 2 * unit_SD @ unit_SD.T) / temperature)[anchors_S]
    near_S = closeness_SS.masked_fill(~same_SS[anchors_S], -torch.inf).logsumexp(dim=1)
    all_S = closeness_SS.masked_fill(itself_SS[anchors_S], -torch.inf).logsumexp(dim=1)
    return (all_S - near_S).mean()


def distillation_loss(weights_CD: Tensor, bias_C: Tensor | None, target_CD: Tensor,
                      target_bias_C: Tensor | None = None) -> Tensor:
    """Mean absolute difference of codes from the rows that training on many boxes gave the same classes.

    Args:
        weights_CD, bias_C: The codes.
        target_CD, target_bias_C: The rows; without biases on both sides, only the weights are compared.
    """
    loss = (weights_CD - target_CD).abs().mean()
    if bias_C is not None and target_bias_C is not None:
        loss = loss + (bias_C - target_bias_C).abs().mean()
    return loss
