"""The embeddings of a block of episodes, as the heads take them.

Shapes: E episodes of the block, N classes, K shots, S = N * K support objects class by class, Q queries of all classes
together class by class, D embedding width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ovd.fewshot.episodic.episodes import Episodes
from ovd.fewshot.episodic.objects import EmbeddedObjects

BLOCK = 256  # episodes; some megabytes of embeddings


@dataclass(frozen=True, eq=False)
class Tasks:
    """A block of episodes.

    Attributes:
        support_ENKD, query_EQD: Unit rows float32.
        numbers: Which episodes these are; with ``seed`` the source of what a fit draws at random.
        seed: Of the episodes.
        text_support_ESN, text_query_EQN: Logits of the classes' texts, or None.
    """

    support_ENKD: Tensor
    query_EQD: Tensor
    numbers: range
    seed: int
    text_support_ESN: Tensor | None = None
    text_query_EQN: Tensor | None = None

    @property
    def way(self) -> int:
        return self.support_ENKD.shape[1]

    @property
    def shot(self) -> int:
        return self.support_ENKD.shape[2]

    @property
    def support_ESD(self) -> Tensor:
        return self.support_ENKD.flatten(1, 2)

    @property
    def label_S(self) -> Tensor:
        """The class of each support object, long."""
        return torch.arange(self.way).repeat_interleave(self.shot)

    @property
    def label_Q(self) -> Tensor:
        """The class of each query, long."""
        return torch.arange(self.way).repeat_interleave(self.query_EQD.shape[1] // self.way)

    def fit_seed(self, number: int) -> int:
        """From which the fit of episode ``number`` draws its batches."""
        return int(np.random.SeedSequence([self.seed, number, 1]).generate_state(1)[0])


def blocks(objects: EmbeddedObjects, episodes: Episodes, text_logits_NC: np.ndarray | None = None,
           size: int = BLOCK) -> Iterator[Tasks]:
    """All episodes, ``size`` at a time.

    Args:
        text_logits_NC: Of all objects for all classes.
    """
    for start in range(0, len(episodes), size):
        numbers = range(start, min(start + size, len(episodes)))
        here = slice(numbers.start, numbers.stop)
        support_ENK, query_ENQ = episodes.support_ENK[here], episodes.query_ENQ[here]
        texts = [None, None] if text_logits_NC is None else [
            torch.from_numpy(text_logits_NC[places.reshape(len(numbers), -1, 1), episodes.classes_EN[here, None]])
            for places in (support_ENK, query_ENQ)]
        yield Tasks(objects.unit_rows(support_ENK), objects.unit_rows(query_ENQ).flatten(1, 2), numbers, episodes.seed,
                    *texts)
