"""Which labels are probably wrong: the vote of an object's nearest neighbours, CLIP's opinion, and confident learning.

Legend: N objects, B of them in a block, C classes, K neighbours. Neighbours are rows of objects, -1 for none.
"""

from dataclasses import dataclass

import numpy as np

TEMPERATURE = 0.07  # of the vote's weights


def vote(scores_BK: np.ndarray, rows_BK: np.ndarray, labels_N: np.ndarray, num_classes: int,
         temperature: float = TEMPERATURE) -> np.ndarray:
    """The neighbours' vote on each object's class, float64 ``[B, C]``, rows that sum to 1 (0 without neighbours).

    ``p(c) = sum_k [y_k = c] exp(s_k / T) / sum_k exp(s_k / T)`` with the neighbours' labels y and cosines s: the
    weighted k-nearest-neighbour classifier of Wu et al., "Unsupervised feature learning via non-parametric instance
    discrimination" (CVPR 2018, sec. 3.4). An object never votes on itself, so the vote is out of sample.
    """
    voters, scores_BK = rows_BK >= 0, scores_BK.astype(np.float64)
    highest = np.max(scores_BK, axis=1, where=voters, initial=-np.inf, keepdims=True)
    weights = np.exp((scores_BK - np.where(np.isfinite(highest), highest, 0)) / temperature,
                     where=voters, out=np.zeros(scores_BK.shape))
    block = len(rows_BK)
    cell = np.arange(block)[:, None] * num_classes + labels_N[np.where(voters, rows_BK, 0)]
    votes_BC = np.bincount(cell[voters], weights[voters], block * num_classes)
    votes_BC = votes_BC.astype(np.float64).reshape(block, num_classes)  # without a voter bincount gives integers
    total = votes_BC.sum(axis=1, keepdims=True)
    return np.divide(votes_BC, total, out=votes_BC, where=total > 0)


def blend(vote_BC: np.ndarray, text_BC: np.ndarray, weight: float, few_B: np.ndarray) -> np.ndarray:
    """Vote and CLIP's class probabilities as one: ``(1 - weight) vote + weight text``, ``[B, C]``.

    CLIP alone decides where nobody voted, and where ``few_B``: too few objects of the label elsewhere to confirm it.
    """
    alone = few_B | ~vote_BC.any(axis=1)
    weight_B = np.where(alone, 1.0, weight)[:, None]
    return (1 - weight_B) * vote_BC + weight_B * text_BC


def confident_thresholds(given_N: np.ndarray, labels_N: np.ndarray, num_classes: int) -> np.ndarray:
    """Per class its mean probability among the objects labelled so, ``[C]``; infinite for a class without objects.

    ``t_j`` of Northcutt, Jiang and Chuang, "Confident learning: estimating uncertainty in dataset labels" (JAIR 2021,
    eq. 2): how sure one is on average of an object of class j.

    Args:
        given_N: Probability of each object's own label; NaN for one that cannot be judged, which is left out.
    """
    judged = np.isfinite(given_N)
    counts = np.bincount(labels_N[judged], minlength=num_classes)
    sums = np.bincount(labels_N[judged], given_N[judged], num_classes)
    return np.divide(sums, counts, out=np.full(num_classes, np.inf), where=counts > 0)


def confident_class(probabilities_BC: np.ndarray, thresholds_C: np.ndarray) -> np.ndarray:
    """The most probable of the classes that reach their threshold, int64 ``[B]``; -1 where none does.

    An object whose confident class is not its label is counted as a label error by the confident joint (eq. 1 there),
    but here only if that class is more probable than the label: where all objects that are labelled as a rare class are
    wrong its threshold is next to nothing, and everything that is a little less sure of its own label would reach it.
    """
    reached = probabilities_BC >= thresholds_C
    best = np.where(reached, probabilities_BC, -1.0).argmax(axis=1)
    return np.where(reached.any(axis=1), best, -1)


@dataclass(frozen=True)
class LabelScores:
    """What is thought of each object's label; all arrays have N entries.

    Attributes:
        given: Probability of the label; NaN where nothing can be said.
        suggested: The most probable other class.
        suggested_probability: Its probability.
        confident: Whether the label is counted as wrong (:func:`confident_class`, which is then suggested).
        by_vote, by_text: The suggested class's share of the vote, and CLIP's probability of it (NaN without text).
    """

    given: np.ndarray
    suggested: np.ndarray
    suggested_probability: np.ndarray
    confident: np.ndarray
    by_vote: np.ndarray
    by_text: np.ndarray

    @property
    def score(self) -> np.ndarray:
        """Suspicion, -1 to 1: ``p(suggested) - p(given)``, the negative normalised margin of Northcutt et al. 2021."""
        return self.suggested_probability - self.given

    def ranking(self) -> np.ndarray:
        """Rows of suspicious labels, the most suspicious first: those of positive score."""
        score = np.nan_to_num(self.score, nan=-1.0)
        suspicious = np.flatnonzero(score > 0)
        return suspicious[np.lexsort((suspicious, -score[suspicious]))]


def best_other(probabilities_BC: np.ndarray, labels_B: np.ndarray) -> np.ndarray:
    """The most probable class that is not the label, int64 ``[B]``."""
    others = probabilities_BC.copy()
    others[np.arange(len(labels_B)), labels_B] = -1.0
    return others.argmax(axis=1)
