"""Accuracy at ground-truth boxes: recognition alone, without localisation and ranking."""

import math
from collections.abc import Sequence

import numpy as np


def group_accuracy(true_labels: np.ndarray, found_labels: np.ndarray, group: Sequence[int]) -> float:
    """Per cent of the boxes of a group's classes whose best class, among all classes, is the right one.

    Args:
        true_labels, found_labels: ``[G]`` int.
        group: labels of the group's classes.

    Returns:
        per cent; NaN without such boxes.
    """
    chosen = np.isin(true_labels, np.asarray(group, dtype=np.int64))
    if not chosen.any():
        return math.nan
    return 100.0 * float((true_labels[chosen] == found_labels[chosen]).mean())
