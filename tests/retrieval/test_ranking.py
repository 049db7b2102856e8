"""Search of vectors against brute force; rankings made one, against the published formula."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keeps.retrieval.dense as dense
from keeps.errors import RecordError, SettingsError
from keeps.retrieval.dense import Vectors, unit_rows
from keeps.retrieval.ranking import best_rows, diverse, min_max_sum, reciprocal_ranks

SCORES = st.lists(st.integers(-3, 3).map(lambda value: value / 4), max_size=30)


@given(SCORES, st.integers(1, 12))
def test_the_best_rows_are_those_of_a_full_sort_and_ties_go_to_the_first(scores: list[float], k: int) -> None:
    found = best_rows(np.array(scores, np.float32), k)
    assert found.tolist() == sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:k]


@given(SCORES, st.integers(1, 12), st.data())
def test_rows_that_are_not_eligible_or_not_above_are_never_found(
    scores: list[float], k: int, data: st.DataObject
) -> None:
    eligible = data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    found = best_rows(np.array(scores, np.float32), k, np.array(eligible, bool), above=0.0)
    wanted = [row for row in range(len(scores)) if eligible[row] and scores[row] > 0]
    assert found.tolist() == sorted(wanted, key=lambda row: (-scores[row], row))[:k]


def test_differences_below_a_millionth_do_not_decide() -> None:
    assert best_rows(np.array([0.5, 0.5 + 2e-7, 0.1]), 2).tolist() == [0, 1]
    assert best_rows(np.array([0.5, 0.5 + 1e-5, 0.1]), 2).tolist() == [1, 0]


@pytest.mark.parametrize("held_bytes", [0, 2**30])
def test_exact_search_is_brute_force_whether_a_copy_is_held_or_not(
    held_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "HELD_BYTES", held_bytes)
    monkeypatch.setattr(dense, "BLOCK", 64)
    random = np.random.default_rng(0)
    rows = unit_rows(random.standard_normal((1000, 48))).astype(np.float16)
    query = unit_rows(random.standard_normal((1, 48)))[0]
    wanted = rows.astype(np.float64) @ query.astype(np.float64)
    scores = Vectors(rows).scores(query)
    assert np.abs(scores - wanted).max() < 1e-6
    assert best_rows(scores, 10).tolist() == np.argsort(-wanted.round(6), kind="stable")[:10].tolist()


@pytest.mark.parametrize("bad", [[[np.nan, 1.0]], [[np.inf, 0.0]], [[0.0, 0.0]], [[1.0, 0.0, 0.0]]])
def test_vectors_that_cannot_be_compared_are_refused(bad: list[list[float]]) -> None:
    with pytest.raises(RecordError):
        unit_rows(np.array(bad), width=2)


def test_ranks_one_and_three_beat_or_lose_as_the_formula_says() -> None:
    # d: ranks (1, 3); e: ranks (2, 1): 1/61 + 1/63 < 1/62 + 1/61
    d, e, f = 10, 11, 12
    rows, scores = reciprocal_ranks([np.array([d, e, f]), np.array([e, f, d])])
    assert rows.tolist()[:2] == [e, d]
    assert dict(zip(rows.tolist(), scores.tolist(), strict=True))[d] == 1 / 61 + 1 / 63
    assert scores[0] == pytest.approx(1 / 62 + 1 / 61, abs=1e-15)


LISTS = st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=3)


@given(LISTS)
def test_a_row_counts_once_a_list_and_fusion_is_the_sum_over_lists(lists: list[list[int]]) -> None:
    rows, scores = reciprocal_ranks([np.array(one, np.int64) for one in lists])
    for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
        ranks = [list(dict.fromkeys(one)).index(row) + 1 for one in lists if row in one]
        assert score == pytest.approx(sum(1 / (60 + rank) for rank in ranks))
    assert set(rows.tolist()) == {row for one in lists for row in one}
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)


def test_weights_of_a_fusion_are_checked_and_count() -> None:
    first, second = np.array([1]), np.array([2])
    assert reciprocal_ranks([first, second], [1, 2])[0].tolist() == [2, 1]
    assert min_max_sum([first, second], [np.array([3.0]), np.array([9.0])], [2, 1])[0].tolist() == [1, 2]
    for weights in ([1.0], [1.0, -1.0]):
        with pytest.raises(SettingsError):
            reciprocal_ranks([first, second], weights)


def test_diversity_passes_over_a_near_copy_and_relevance_alone_does_not() -> None:
    likeness = np.array([[1.0, 0.99, 0.1], [0.99, 1.0, 0.1], [0.1, 0.1, 1.0]])
    assert diverse([1.0, 0.95, 0.6], likeness, 2, 0.5) == [0, 2]
    assert diverse([1.0, 0.95, 0.6], likeness, 2, 1.0) == [0, 1]
