"""Shots of several classes, a different number of each, as a padded table of classes by shots.

Shapes: S shots, C classes, K shots of the class that has most.
"""

import torch
from torch import Tensor


class ShotLayout:
    """Where each shot stands in a table ``[C, K]``: in its class's row, in the order of occurrence.

    Args:
        class_of_S: Long, each shot's class.
        num_classes: C; every class has a shot.

    Attributes:
        counts_C: Shots of each class.
        used_CK: Which entries of the table are shots; the others are padding.
    """

    def __init__(self, class_of_S: Tensor, num_classes: int) -> None:
        self.counts_C = torch.bincount(class_of_S, minlength=num_classes)
        order_S = class_of_S.argsort(stable=True)
        starts_C = self.counts_C.cumsum(0) - self.counts_C
        column_S = torch.empty_like(class_of_S)
        column_S[order_S] = torch.arange(len(class_of_S), device=class_of_S.device) - starts_C[class_of_S[order_S]]
        self.row_S, self.column_S = class_of_S, column_S
        shots = int(self.counts_C.max())
        self.used_CK = torch.arange(shots, device=class_of_S.device) < self.counts_C[:, None]

    def table(self, values: Tensor) -> Tensor:
        """``[S, ...]`` to ``[C, K, ...]``, padded with zeros."""
        padded = values.new_zeros(*self.used_CK.shape, *values.shape[1:])
        return padded.index_put((self.row_S, self.column_S), values)

    def even_weights(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """``[C, K]``: one over the number of the class's shots; 0 for padding."""
        return self.used_CK.to(dtype) / self.counts_C[:, None]

    def softmax(self, scores_S: Tensor) -> Tensor:
        """``[C, K]``: softmax over the shots of each class; 0 for padding."""
        return self.table(scores_S).masked_fill(~self.used_CK, -torch.inf).softmax(dim=1)

    def maximum(self, values_SD: Tensor) -> Tensor:
        """``[C, D]``: the largest value over the shots of each class."""
        return self.table(values_SD).masked_fill(~self.used_CK[..., None], -torch.inf).amax(dim=1)
