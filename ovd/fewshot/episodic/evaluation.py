"""Accuracy of a head over episodes, with its interval; and which settings are best on base classes.

Shapes: E episodes, N classes, Q queries of an episode.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from ovd.fewshot.episodic.episodes import Episodes
from ovd.fewshot.episodic.objects import EmbeddedObjects
from ovd.fewshot.episodic.tasks import Tasks, blocks

Z = NormalDist().inv_cdf(0.975)  # 1.96: a normal variable lies within Z deviations 95 times of 100


@dataclass(frozen=True, eq=False)
class Result:
    """What a head reached.

    Attributes:
        accuracy_E: The share of an episode's queries that are right.
        seconds: What it took.
    """

    accuracy_E: np.ndarray
    seconds: float

    @property
    def mean(self) -> float:
        """Per cent."""
        return 100 * float(self.accuracy_E.mean())

    @property
    def interval(self) -> float:
        """Half the width of the 95 % interval of the mean, per cent: ``Z * sigma / sqrt(E)``."""
        return 100 * Z * float(self.accuracy_E.std()) / len(self.accuracy_E) ** 0.5


def evaluate(scores: Callable[[Tasks], Tensor], objects: EmbeddedObjects, episodes: Episodes,
             text_logits_NC: np.ndarray | None = None, bar: str | None = None) -> Result:
    """Classify all queries.

    Args:
        text_logits_NC: Of all objects for all classes, for heads that use texts.
        bar: What to write beside a progress bar; None for no bar.
    """
    start, accuracy = time.perf_counter(), []
    with tqdm(total=len(episodes), desc=bar, unit=" episodes", disable=bar is None, leave=False) as progress:
        for tasks in blocks(objects, episodes, text_logits_NC):
            right_EQ = scores(tasks).argmax(dim=-1) == tasks.label_Q
            accuracy.append(right_EQ.double().mean(dim=1).numpy())
            progress.update(len(right_EQ))
    return Result(np.concatenate(accuracy), time.perf_counter() - start)


def tune(scores: Callable[..., Tensor], candidates: Sequence[Mapping[str, Any]], base: EmbeddedObjects,
         episodes: Episodes, text_logits_NC: np.ndarray | None = None, bar: str | None = None) -> dict[str, Any]:
    """The settings with the highest accuracy on episodes of base classes; of equal ones the first."""
    if len(candidates) == 1:
        return dict(candidates[0])
    shown = tqdm(candidates, desc=bar, unit=" settings", disable=bar is None, leave=False)
    reached = [evaluate(lambda tasks, chosen=settings: scores(tasks, **chosen), base, episodes, text_logits_NC).mean
               for settings in shown]
    return dict(candidates[int(np.argmax(reached))])
