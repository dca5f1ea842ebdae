"""Learning one context: the frozen text tower over all base classes, against pairs of region embeddings (DetPro).

Legend: N pairs of a batch, C base classes, K context vectors, W width of the text tower, D embedding width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ovd.clip.prompts.batches import PairReader
from ovd.clip.prompts.context import PromptContext
from ovd.clip.prompts.losses import Weights, pair_weights, prompt_loss
from ovd.clip.prompts.settings import PromptSettings
from ovd.clip.prompts.tower import PromptTower
from ovd.errors import UserError

INITIAL_STD = 0.02


@dataclass(frozen=True)
class Outcome:
    """What came of a training.

    Attributes:
        context: The learned vectors.
        positives, negatives: Pairs of an epoch.
        losses: Mean loss of each epoch.
        held_out: Per cent of held-out positives with the right base class: with the initial vectors and the learned
            ones; empty without a holdout.
    """

    context: PromptContext
    positives: int
    negatives: int
    losses: tuple[float, ...]
    held_out: tuple[float, ...]


def learn_context(tower: PromptTower, names: Sequence[str], reader: PairReader, settings: PromptSettings,
                  positives: tuple[float, float],
                  progress: Callable[[int, float], None] = lambda pairs, loss: None) -> Outcome:
    """Learn the context of one model of the ensemble.

    The same input and seed give the same vectors, to the bit, on one machine and number of threads.

    Args:
        names: Base classes, in the order of the pairs' labels.
        positives: From, below: the IoU of this model's positives, one of ``settings.ranges``.
        progress: Called after each batch with its number of pairs and its loss.

    Raises:
        UserError: No pairs in the range; a loss that is not finite.
    """
    low, high = positives
    selection = settings.selection(positives)
    counts_C, negatives = selection.counts(reader.pairs, len(names))
    pairs = int(counts_C.sum()) + negatives
    if not counts_C.any():
        raise UserError(f"no training pairs with an IoU from {low} to {high}; give other --ranges, or more proposals")
    weights = pair_weights(torch.from_numpy(counts_C), negatives)
    weights = replace(weights, class_C=weights.class_C.to(tower.device))
    learner = _Learner(tower, names, settings, positives)
    before = learner.accuracy(reader)
    optimizer = torch.optim.SGD(learner.parameters, lr=settings.lr, momentum=settings.momentum)
    losses = []
    for epoch in range(settings.epochs):
        optimizer.param_groups[0]["lr"] = settings.rate(epoch)
        total = 0.0
        order = (settings.range_seed(positives), epoch)
        for region_ND, labels_N in reader.batches(selection, settings.batch_size, order):
            loss = learner.loss(region_ND.to(tower.device), labels_N.to(tower.device), weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if not math.isfinite(value := float(loss.detach())):
                raise UserError(f"the loss of the prompts for IoU {low} to {high} is {value} in epoch {epoch + 1}; "
                                "lower --lr")
            total += value * len(labels_N)
            progress(len(labels_N), value)
        losses.append(total / pairs)
    held_out = () if before is None else (before, learner.accuracy(reader))
    return Outcome(learner.learned(), pairs - negatives, negatives, tuple(losses), held_out)


class _Learner:
    """The vectors in training, and the base classes' sentences."""

    def __init__(self, tower: PromptTower, names: Sequence[str], settings: PromptSettings,
                 positives: tuple[float, float]) -> None:
        self.tower, self.settings = tower, settings
        self.held_out = settings.selection(positives, held_out=True)
        self.sentences = tower.sentences(names, settings.context, settings.position)
        generator = torch.Generator().manual_seed(settings.range_seed(positives))

        def initial(vectors: int) -> Tensor:
            drawn_KW = torch.randn(vectors, tower.width, generator=generator) * INITIAL_STD
            return drawn_KW.to(tower.device).requires_grad_()

        self.context_KW = initial(settings.context)
        self.background_KW = initial(settings.background_context) if settings.mode == "learn" else None
        if self.background_KW is not None:
            self.background = tower.background(settings.background_context)

    @property
    def parameters(self) -> list[Tensor]:
        return [self.context_KW] if self.background_KW is None else [self.context_KW, self.background_KW]

    def loss(self, region_ND: Tensor, labels_N: Tensor, weights: Weights) -> Tensor:
        region_ND = F.normalize(region_ND, dim=-1)
        logits_NC = region_ND @ self._texts().T / self.settings.temperature
        background_N = None
        if self.background_KW is not None:
            text_D = F.normalize(self.tower(self.background, self.background_KW), dim=-1)[0]
            background_N = region_ND @ text_D / self.settings.temperature
        return prompt_loss(self.settings.mode, logits_NC, labels_N, weights, background_N)

    def _texts(self) -> Tensor:
        return F.normalize(self.tower(self.sentences, self.context_KW), dim=-1)

    @torch.no_grad()
    def accuracy(self, reader: PairReader) -> float | None:
        """Per cent of the held-out images' positives whose best base class is theirs; None without any."""
        if not self.settings.holdout:
            return None
        right = total = 0
        texts_CD = self._texts()
        for region_ND, labels_N in reader.batches(self.held_out, 4096, None):
            predicted_N = (region_ND.to(self.tower.device) @ texts_CD.T).argmax(dim=1)
            right += int((predicted_N.cpu() == labels_N).sum())
            total += len(labels_N)
        return 100 * right / total if total else None

    def learned(self) -> PromptContext:
        background = None if self.background_KW is None else self.background_KW.detach().cpu()
        return PromptContext(self.context_KW.detach().cpu(), self.settings.position, self.tower.fingerprint, background)
