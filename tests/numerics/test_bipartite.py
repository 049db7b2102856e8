"""The matching is as large as scipy's, and the scores count what it leaves over."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from keeps.numerics.bipartite import match_scores, maximum_matching

EDGES = st.lists(st.lists(st.integers(0, 6), max_size=5, unique=True), min_size=1, max_size=8)


@given(EDGES)
def test_the_matching_is_valid_and_as_large_as_scipys(edges: list[list[int]]) -> None:
    mates = maximum_matching(edges)
    taken = [mate for mate in mates if mate is not None]
    assert len(set(taken)) == len(taken)
    assert all(mate in edges[left] for left, mate in enumerate(mates) if mate is not None)
    dense = np.zeros((len(edges), 7), dtype=int)
    for left, several in enumerate(edges):
        dense[left, several] = 1
    assert len(taken) == int((maximum_bipartite_matching(csr_matrix(dense)) >= 0).sum())


@given(EDGES, st.booleans())
def test_scores_are_shares_of_what_matches(edges: list[list[int]], one_to_one: bool) -> None:
    similarity = [[0.9 if column in several else 0.1 for column in range(7)] for several in edges]
    found = match_scores(similarity, 0.5, gold=7, one_to_one=one_to_one)
    if one_to_one:
        pairs = sum(mate is not None for mate in maximum_matching(edges))
        assert (found.precision, found.recall) == (pairs / len(edges), pairs / 7)
        return
    assert found.precision == sum(1 for several in edges if several) / len(edges)
    assert found.recall == len({column for several in edges for column in several}) / 7


def test_one_gold_fact_vouches_for_many_predictions_only_as_published() -> None:
    similarity = [[0.9, 0.0]] * 4
    assert match_scores(similarity, 0.85, gold=2).precision == 1.0
    assert match_scores(similarity, 0.85, gold=2, one_to_one=True).precision == 0.25
    assert match_scores([], 0.85, gold=2).f1 == 0.0


def test_no_gold_or_a_row_of_another_length_is_refused() -> None:
    for similarity, gold in (([], 0), ([[0.1]], 2)):
        with pytest.raises(ValueError, match="entries"):
            match_scores(similarity, 0.5, gold=gold)
