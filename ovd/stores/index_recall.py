"""How thoroughly an index of lists has to be searched to find what an exact search finds.

Recall at K: the share of the K nearest rows, by exact search, that are among the K that the index names. A query that
is itself a row of the store does not count its own row.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import faiss
import numpy as np

REPORTED = (1, 10, 20)
_AIM = 10  # the K whose recall the target is for
_REFINE = (4, 16, 64)  # candidates for each hit that are compared again, where codes stand for rows
_NO_BETTER = 0.002  # twice the lists that gain less than this are not worth it


class Searcher(Protocol):
    """What is measured."""

    def search(self, queries_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class QuerySet:
    """Queries of one kind, float32 unit rows ``[Q, D]``; ``own_Q`` are their rows where they are rows of the store."""

    name: str
    rows_QD: np.ndarray
    own_Q: np.ndarray | None = None


def choose_effort(searcher: Callable[[int], Searcher], index: faiss.Index, sets: list[QuerySet],
                  truths: list[np.ndarray], target: float) -> dict[str, Any]:
    """The least effort whose recall at 10 reaches ``target`` on every set of queries, or the best there is.

    Args:
        searcher: gives, for a number of candidates a hit, what is to be measured; it searches ``index``.
        index: an IVF index; its ``nprobe`` is changed.
        truths: the exact search's rows ``[Q, max(REPORTED) + 1]`` of each set.

    Returns:
        ``{"nprobe", "refine", "recall": {set: {"1": share, "10": ..., "20": ...}}, "reached": bool}``
    """
    best: dict[str, Any] = {}
    best_recall = -1.0
    has_codes = isinstance(index, faiss.IndexIVFPQ)
    for refine in _REFINE if has_codes else (1,):
        before = -1.0
        for nprobe in _doublings(index.nlist):
            index.nprobe = nprobe
            measured = {queries.name: recall(searcher(refine), queries, truth) for queries, truth in zip(sets, truths)}
            worst = min(at[str(_AIM)] for at in measured.values())
            if worst > best_recall:
                best_recall = worst
                best = {"nprobe": nprobe, "refine": refine, "recall": measured, "reached": worst >= target}
            if worst >= target:
                return best
            if refine != _REFINE[-1] and has_codes and before >= 0 and worst - before < _NO_BETTER:
                break  # the codes are what is missing, not the lists
            before = worst
    return best


def recall(searcher: Searcher, queries: QuerySet, truth_QK: np.ndarray) -> dict[str, float]:
    """Recall at each K of :data:`REPORTED`, as ``{"1": share, ...}``, of one search for the largest."""
    found_QK = searcher.search(queries.rows_QD, max(REPORTED) + 1)[1]
    shares: dict[str, list[float]] = {str(k): [] for k in REPORTED}
    for number, (found, truth) in enumerate(zip(found_QK, truth_QK)):
        if queries.own_Q is not None:
            found, truth = (rows[rows != queries.own_Q[number]] for rows in (found, truth))
        for k in REPORTED:
            wanted = truth[:k][truth[:k] >= 0]
            if len(wanted):
                shares[str(k)].append(float(np.isin(wanted, found[:k]).mean()))
    return {k: round(float(np.mean(values)), 4) if values else 1.0 for k, values in shares.items()}


def _doublings(most: int) -> Iterator[int]:
    value = 1
    while value < most:
        yield value
        value *= 2
    yield most
