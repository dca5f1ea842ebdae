"""Whether a name fits the boxes that it is said to be of, learned from right and wrong pairs of base classes.

Where a name means nothing to CLIP, or something else, its row points elsewhere than the boxes, and blending the two
spoils what the boxes say. Shapes: C classes, D embedding width.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead

TRUSTED = "trusted"  # the rule by which it is used
PRIOR = 0.99  # people seldom give a name that is wrong
_RIDGE = 1e-3  # keeps the fit finite where right and wrong pairs do not overlap


@dataclass(frozen=True)
class NameTrust:
    """``sigmoid(slope * (cos - threshold))`` for the cosine of a name's row and the mean of the boxes' vectors: the
    posterior probability that the name is right.

    Right and wrong pairs count alike in the fit, however many there are of each; ``PRIOR`` then says how often a name
    is right before anything is seen.
    """

    slope: float
    threshold: float

    @classmethod
    def learn(cls, text: ClassHead, boxes: ClassHead) -> "NameTrust":
        """Logistic regression over all pairs of a base class's name and a base class's boxes.

        Args:
            text, boxes: Have the same classes, two or more.

        Raises:
            UserError: One class alone, which makes no wrong pair.
        """
        if len(boxes) < 2:
            raise UserError("trust in names: it takes two base classes or more, to make pairs that do not belong")
        cosines_CC = (directions(text.select(boxes.names)) @ directions(boxes).T).double()
        right_CC = torch.eye(len(boxes), dtype=torch.bool)
        middle = (cosines_CC[right_CC].mean() + cosines_CC[~right_CC].mean()) / 2
        spread = float(cosines_CC.std()) or 1.0
        free = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)  # of standardised cosines
        optimiser = torch.optim.LBFGS([free], max_iter=200, line_search_fn="strong_wolfe")
        standard_CC = (cosines_CC - middle) / spread

        def objective() -> Tensor:
            optimiser.zero_grad()
            logits_CC = free[0] * standard_CC + free[1]
            value = F.softplus(-logits_CC[right_CC]).mean() + F.softplus(logits_CC[~right_CC]).mean()
            value = value + _RIDGE * free.square().sum()
            value.backward()
            return value

        optimiser.step(objective)
        slope, offset = float(free[0].detach()) / spread, float(free[1].detach()) + math.log(PRIOR / (1 - PRIOR))
        return cls(slope, float(middle) - offset / slope)

    def of(self, text: ClassHead, boxes: ClassHead) -> dict[str, float]:
        """How much each name of both heads is to be trusted, from 0 to 1."""
        names = [name for name in text.names if name in set(boxes.names)]
        if not names:
            return {}
        cosines_C = (directions(text.select(names)) * directions(boxes.select(names))).sum(dim=1).double()
        return dict(zip(names, (self.slope * (cosines_C - self.threshold)).sigmoid().tolist()))

    def like(self, text: ClassHead, boxes: ClassHead) -> str | None:
        """The name that says what the boxes of one class show, whatever that class is called; None where none does.

        Here a name is as likely wrong as right before anything is seen.
        """
        cosine, place = (directions(text) @ directions(boxes)[0]).double().max(dim=0)
        evidence = self.slope * (float(cosine) - self.threshold) - math.log(PRIOR / (1 - PRIOR))
        return text.names[int(place)] if evidence > 0 else None

    def weights(self, text: ClassHead, boxes: ClassHead, lam: float) -> dict[str, float]:
        """The weight of each class's boxes: ``lam`` beside a name that is trusted, 1 beside one that is not."""
        return {name: 1 - trust * (1 - lam) for name, trust in self.of(text, boxes).items()}


def directions(head: ClassHead) -> Tensor:
    """The normalised mean of each class's unit vectors, ``[C, D]``."""
    used_CM = torch.arange(head.weights.shape[1]) < head.counts_C()[:, None]
    return F.normalize((F.normalize(head.weights, dim=-1) * used_CM[..., None]).sum(dim=1), dim=-1)
