"""Choosing support: maximal marginal relevance as in its formula, one box of a group, ranges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_world import unit_rows

from ovd.fewshot.retrieval import best_of_groups, choose, maximal_marginal_relevance, scaled


def slow_mmr(relevance, similarity, k, trade_off, to_chosen):
    """The formula, word for word: ``S`` is a list, and every maximum is taken anew."""
    chosen, left = [], list(range(len(relevance)))
    while left and len(chosen) < k:
        values = []
        for i in left:
            alike = [similarity[i][j] for j in chosen] + ([] if to_chosen is None else list(to_chosen[i]))
            values.append(trade_off * relevance[i] - (1 - trade_off) * max(alike, default=0.0))
        chosen.append(left.pop(int(np.argmax(values))))
    return chosen


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 12), k=st.integers(1, 14), trade_off=st.floats(0, 1),
       before=st.sampled_from([None, 0, 3]))
def test_mmr_is_the_formula(seed, count, k, trade_off, before):
    rng = np.random.default_rng(seed)
    relevance, rows = rng.random(count), unit_rows(rng, count, 5)
    to_chosen = None if before is None else rows @ unit_rows(rng, before, 5).T
    found = maximal_marginal_relevance(relevance, rows @ rows.T, k, trade_off, to_chosen)
    assert found.tolist() == slow_mmr(relevance, rows @ rows.T, k, trade_off, to_chosen)


def test_without_diversity_the_most_relevant_are_chosen_in_order():
    rows = unit_rows(np.random.default_rng(0), 6, 4)
    assert choose(np.array([0.1, 0.5, 0.4, 0.9, 0.2, 0.3]), rows, 3, 1.0).tolist() == [3, 1, 2]


def test_diversity_leaves_out_what_repeats_an_earlier_one_or_an_example():
    rows = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
    relevance = np.array([1.0, 0.99, 0.9, 0.8])
    assert choose(relevance, rows, 3, 0.5).tolist() == [0, 2, 3]
    assert choose(relevance, rows, 2, 0.5, chosen_MD=rows[2:3]).tolist() == [0, 3]


def test_scaled_values_fill_the_range_and_equal_ones_are_1():
    np.testing.assert_allclose(scaled(np.array([0.2, 0.25, 0.3])), [0, 0.5, 1])
    np.testing.assert_array_equal(scaled(np.full(3, 0.2)), 1)
    assert len(scaled(np.zeros(0))) == 0


@pytest.mark.parametrize(("scores", "groups", "best"), [
    ([0.1, 0.9, 0.5], [0, 0, 2], [1, 2]),
    ([0.5, 0.5, 0.7, 0.5], [0, 0, 2, 3], [2, 0, 3]),
    ([], [], []),
])
def test_the_most_relevant_of_each_group_stays(scores, groups, best):
    assert best_of_groups(np.array(scores), np.array(groups, int)).tolist() == best
