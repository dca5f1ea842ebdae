"""Which of many candidate boxes could serve as support of a class: relevant, distinct and diverse ones.

Shapes: N candidates, M boxes that were chosen before, P pairs.
"""

import numpy as np


def maximal_marginal_relevance(relevance_N: np.ndarray, similarity_NN: np.ndarray, k: int, trade_off: float,
                               to_chosen_NM: np.ndarray | None = None) -> np.ndarray:
    """Choose k candidates one after the other, each relevant and unlike those before: positions int64, as chosen.

    The next one is, of the candidates R that are not in the chosen S,
    ``argmax over i in R - S of  trade_off * Sim1(i, query) - (1 - trade_off) * max over j in S of Sim2(i, j)``
    (Carbonell and Goldstein, "The use of MMR, diversity-based reranking", SIGIR 1998, sec. 2). Of equal ones the first.

    Args:
        relevance_N: ``Sim1``.
        similarity_NN: ``Sim2``.
        trade_off: 1 for the most relevant ones, 0 for the most unlike ones.
        to_chosen_NM: ``Sim2`` of the candidates to boxes that are in S from the beginning.

    Returns:
        Fewer than k where there are fewer candidates.
    """
    closest_N = np.full(len(relevance_N), -np.inf) if to_chosen_NM is None else \
        np.max(to_chosen_NM, axis=1, initial=-np.inf)
    left_N = np.ones(len(relevance_N), bool)
    order = np.empty(min(k, len(relevance_N)), np.int64)
    for place in range(len(order)):
        repeated_N = np.where(np.isfinite(closest_N), closest_N, 0.0)
        value_N = trade_off * np.asarray(relevance_N) - (1 - trade_off) * repeated_N
        best = int(np.where(left_N, value_N, -np.inf).argmax())
        order[place], left_N[best] = best, False
        closest_N = np.maximum(closest_N, similarity_NN[:, best])
    return order


def scaled(values: np.ndarray) -> np.ndarray:
    """Values shifted and stretched to 0 ... 1; 1 where all are equal.

    Cosines of a text and regions lie close together, far below those between regions. Scaled over the candidates, both
    similarities of MMR have one range, and its trade-off means the same for texts and for examples.
    """
    values = np.asarray(values, np.float64)
    low, high = np.min(values, initial=np.inf), np.max(values, initial=-np.inf)
    return (values - low) / (high - low) if high > low else np.ones_like(values)


def choose(relevance_N: np.ndarray, rows_ND: np.ndarray, k: int, trade_off: float,
           chosen_MD: np.ndarray | None = None) -> np.ndarray:
    """MMR over unit rows, with both similarities scaled: positions int64, as chosen.

    Args:
        chosen_MD: Unit rows of boxes that are support already.
    """
    others = rows_ND if chosen_MD is None else np.concatenate([rows_ND, chosen_MD])
    similarity = scaled(rows_ND @ others.T)
    count = len(rows_ND)
    return maximal_marginal_relevance(scaled(relevance_N), similarity[:, :count], k, trade_off,
                                      None if chosen_MD is None else similarity[:, count:])


def best_of_groups(relevance_N: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    """The most relevant candidate of each group, in order of relevance: positions int64. Of equal ones the first."""
    order = np.lexsort((np.arange(len(relevance_N)), -np.asarray(relevance_N)))
    _, first = np.unique(np.asarray(group_N)[order], return_index=True)
    return order[np.sort(first)]
