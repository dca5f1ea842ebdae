"""Episodes: n classes, k support objects and q queries of each, drawn once from a seed so that all heads see the same.

Chen et al., "A Closer Look at Few-shot Classification" (ICLR 2019), sec. 3.1. Shapes: E episodes, N classes of one
(n-way), K support objects of a class (k-shot), Q queries of a class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ovd.errors import UserError

_DRAWN = 256  # objects of a class that are drawn in order, so that those for fewer shots are the first of them


@dataclass(frozen=True, eq=False)
class Episodes:
    """Which objects each episode consists of.

    Attributes:
        classes_EN: int64, labels of the episode's classes; within the episode class ``i`` is the i-th of them.
        support_ENK, query_ENQ: int64, positions of objects.
        seed: From which they were drawn.
    """

    classes_EN: np.ndarray
    support_ENK: np.ndarray
    query_ENQ: np.ndarray
    seed: int

    def __len__(self) -> int:
        return len(self.classes_EN)

    @property
    def way(self) -> int:
        return self.classes_EN.shape[1]

    @property
    def shot(self) -> int:
        return self.support_ENK.shape[2]

    @property
    def query(self) -> int:
        return self.query_ENQ.shape[2]


def sample_episodes(labels_N: np.ndarray, names: Sequence[str], *, way: int, shot: int, query: int, episodes: int,
                    seed: int) -> Episodes:
    """Draw episodes; within one, classes and objects are without repetition.

    Episode ``i`` depends on the seed and ``i`` alone, so fewer episodes are the first of more; its classes and queries
    do not depend on the number of shots, and the objects of fewer shots are the first of more (up to 256 of a class).

    Args:
        labels_N: The class of each object, a position in ``names``.

    Raises:
        UserError: Numbers that make no episode; fewer classes than ``way``; a class with fewer than ``shot + query``
            objects.
    """
    check_numbers(way, shot, query, episodes, seed)
    if len(names) < way:
        raise UserError(f"{len(names)} classes are too few for {way}-way episodes: choose a smaller --way or "
                        "more classes")
    counts_C = np.bincount(labels_N, minlength=len(names))
    needed, scarce = shot + query, int(counts_C.argmin())
    if counts_C[scarce] < needed:
        few = int((counts_C < needed).sum())
        others = f" ({few} classes are short of objects)" if few > 1 else ""
        raise UserError(f"class {names[scarce]!r} has {counts_C[scarce]} objects, {shot} shots and {query} queries "
                        f"need {needed}{others}: choose smaller ones, or leave such classes out with --on-few skip")
    members = np.split(np.argsort(labels_N, kind="stable"), np.cumsum(counts_C)[:-1])
    classes_EN = np.empty((episodes, way), np.int64)
    chosen_ENM = np.empty((episodes, way, needed), np.int64)
    size = max(_DRAWN, 1 << (needed - 1).bit_length())
    for episode in range(episodes):
        rng = np.random.default_rng([seed, episode])
        classes_EN[episode] = rng.permutation(len(names))[:way]
        for place, label in enumerate(classes_EN[episode].tolist()):
            order = rng.choice(len(members[label]), min(size, len(members[label])), replace=False)
            chosen_ENM[episode, place] = members[label][order[:needed]]
    return Episodes(classes_EN, chosen_ENM[..., query:], chosen_ENM[..., :query], seed)


def check_numbers(way: int, shot: int, query: int, episodes: int, seed: int) -> None:
    """Raise UserError for numbers that make no episodes."""
    for option, value, least in (("--way", way, 2), ("--shot", shot, 1), ("--query", query, 1),
                                 ("--episodes", episodes, 2), ("--seed", seed, 0)):
        if value < least:
            raise UserError(f"{option} {value}: needs at least {least}")
