"""Classifier rows of classes that were not trained on, predicted from the embeddings of their names.

Ridge regression from CLIP's embeddings of the base classes' names to their trained rows, with an intercept. Its
strength is chosen by leaving out each base class in turn, so that no novel class has a part in it.

Shapes: C base classes, M new ones, E embedding width, P rows a class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovd.engine.head_surgery import ClassHeadLayers, ClassLayer
from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead

STRENGTHS = tuple(10.0**power for power in range(-4, 3))  # relative to the mean squared length of the embeddings


@dataclass(frozen=True)
class PredictedRows:
    """New rows as combinations of the base classes' rows; the combination is that of the names' embeddings.

    Args:
        base: The checkpoint.
        head: Embeddings of the names of all its classes and of the new ones.

    Raises (in ``rows``):
        UserError: A name that the class head lacks, or fewer than two base classes.
    """

    base: ClassHeadLayers
    head: ClassHead
    kind = "text"

    def rows(self, layer: ClassLayer, part: str, base_CP: Tensor, names: Sequence[str]) -> Tensor:
        """See :class:`~ovd.engine.head_surgery.RowSource`; a layer's bias is combined as its weights are."""
        flat = base_CP.double().flatten(1)
        reference = self.base.rows_of_classes(layer, "weight").double().flatten(1)
        combination_MC = combine(self._embeddings(self.base.names), self._embeddings(names), reference)
        return (combination_MC @ flat).reshape(len(names), *base_CP.shape[1:]).to(base_CP.dtype)

    def _embeddings(self, names: Sequence[str]) -> Tensor:
        weights_CMD = self.head.select(names).weights
        return F.normalize(F.normalize(weights_CMD.double(), dim=-1).sum(dim=1), dim=-1)


def combine(base_CE: Tensor, new_ME: Tensor, targets_CF: Tensor) -> Tensor:
    """Weights ``[M, C]``, each row of sum 1, with which the ridge regression combines the base classes' targets.

    Args:
        base_CE, new_ME: Embeddings, float64.
        targets_CF: What belongs to the base classes; decides the strength only.

    Raises:
        UserError: Fewer than two base classes.
    """
    count = len(base_CE)
    if count < 2:
        raise UserError("rows are predicted from names by at least two trained classes; use --method random")
    mean_E = base_CE.mean(dim=0)
    centred_CE = base_CE - mean_E
    gram_CC = centred_CE @ centred_CE.T
    identity = torch.eye(count, dtype=base_CE.dtype)
    centre = identity - 1 / count

    def inverse(strength: float) -> Tensor:
        return torch.linalg.inv(gram_CC + strength * gram_CC.diagonal().mean().clamp(min=1e-12) * identity)

    def left_out_error(strength: float) -> float:
        fit_CC = gram_CC @ inverse(strength) @ centre + 1 / count
        residual_CF = (targets_CF - fit_CC @ targets_CF) / (1 - fit_CC.diagonal())[:, None]
        return float(residual_CF.square().sum())

    best = min(STRENGTHS, key=left_out_error)
    return (new_ME - mean_E) @ centred_CE.T @ inverse(best) @ centre + 1 / count
