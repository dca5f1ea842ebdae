"""The table of heads: names, how episodes are scored, the protocol's settings, and which are tried on base classes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from torch import Tensor

from ovd.errors import UserError, nearest
from ovd.fewshot.episodic import fitted, maml, relation, training_free
from ovd.fewshot.episodic.tasks import Tasks

_FIT = {"tau": (10.0, 30.0, 100.0), "lr": (0.01, 0.1, 1.0)}


@dataclass(frozen=True)
class Head:
    """A way to classify the queries of episodes.

    Attributes:
        scores: ``scores(tasks, **settings)`` to ``[E, Q, N]``, the highest being the answer; None for one that
            ``train_on_base`` makes.
        grid: The values of each setting that are tried on base classes; the defaults of the function are the protocol.
        text_grid: Those that matter only beside text classes.
        method: Of ``ovd.fewshot.sources``, with its fixed settings: the same head for a class of any number of shots.
        train_on_base: For a plug-in: ``train_on_base(base, way=, shot=, query=, seed=, **settings)`` to a function
            that scores tasks.
    """

    scores: Callable[..., Tensor] | None
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    text_grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    method: tuple[str, Mapping[str, Any]] | None = None
    train_on_base: Callable[..., Callable[[Tasks], Tensor]] | None = None

    def candidates(self, with_text: bool) -> list[dict[str, Any]]:
        """All settings to try, as keyword arguments; ``[{}]`` where there is nothing to choose."""
        grid = {**self.grid, **(self.text_grid if with_text else {})}
        return [dict(zip(grid, values)) for values in product(*grid.values())]


HEADS: dict[str, Head] = {
    "prototype": Head(training_free.prototype, method=("prototype", {})),
    "prototype-euclid": Head(training_free.euclidean_prototype, method=("prototype", {"norm": "euclid"})),
    "matching": Head(training_free.matching, {"tau": (3.0, 10.0, 30.0, 100.0)}, method=("matching", {})),
    "tip": Head(training_free.tip_cache, {"beta": (1.0, 3.0, 5.5, 10.0, 30.0)},
                {"alpha": (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)}, method=("tip", {})),
    "tip-f": Head(fitted.tip_fitted, {"beta": (1.0, 5.5, 30.0), "lr": (0.01, 0.1, 1.0)},
                  {"alpha": (1.0, 10.0, 100.0)}, method=("tip-f", {})),
    "linear": Head(fitted.linear, _FIT, method=("linear", {})),
    "cosine": Head(fitted.cosine, _FIT, method=("cosine", {})),
    "negative-margin": Head(fitted.negative_margin, {"margin": (-0.01, -0.1), **_FIT},
                            method=("negative-margin", {})),
    "text": Head(training_free.text),
}


def register(name: str, head: Head) -> None:
    """Add a head under a name of its own."""
    if name in HEADS:
        raise ValueError(f"there is a head {name!r}")
    HEADS[name] = head


def get_head(name: str) -> Head:
    """The head of this name; UserError with the nearest names where there is none."""
    if name not in HEADS:
        raise UserError(f"no head named {name!r}{nearest(name, HEADS)}")
    return HEADS[name]


register("relation", Head(None, train_on_base=relation.train_on_base))
register("maml", Head(None, train_on_base=maml.train_on_base))
