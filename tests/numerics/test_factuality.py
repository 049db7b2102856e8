"""Factuality scores and chances, against numbers and frequencies written out."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.numerics.factuality import DRAWS, drawing_chances, drawn_by_score, factuality, softmax, verified

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def test_the_score_of_hand_set_classifiers_is_that_of_the_formula() -> None:
    assert factuality([(verified(0.8, 0.1), 0.6)]) == pytest.approx(0.725, abs=1e-9)


@given(st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 1)), min_size=1, max_size=6))
def test_the_best_evidence_counts_and_the_score_stays_between_0_and_1(judged: list[tuple[float, float, float]]) -> None:
    found = factuality([(verified(supports, refutes), kb) for supports, refutes, kb in judged])
    by_hand = max(0.25 * (supports - refutes) + 0.25 + 0.5 * kb for supports, refutes, kb in judged)
    assert found == pytest.approx(by_hand, abs=1e-9)
    assert 0 <= found <= 1


@pytest.mark.parametrize(("way", "weight"), [("proportional", lambda s: s), ("exponential", math.exp)])
def test_over_ten_thousand_draws_documents_are_drawn_as_often_as_their_scores_say(way: str, weight: object) -> None:
    scores = [0.9, 0.1, 0.6, 0.3]
    chance = random.Random(0)
    found = Counter(drawn_by_score(scores, 1, way, chance)[0] for _ in range(10_000))
    pool = [0, 2]  # the best two of which one is kept
    total = sum(weight(scores[place]) for place in pool)  # type: ignore[operator]
    assert set(found) == set(pool)
    for place in pool:
        assert found[place] / 10_000 == pytest.approx(weight(scores[place]) / total, abs=0.02)  # type: ignore[operator]


@given(SCORES, st.integers(1, 12), st.sampled_from(DRAWS), st.integers(0, 99))
def test_no_document_is_drawn_twice_or_from_outside_the_best_twice_as_many(
    scores: list[float], keep: int, way: str, seed: int
) -> None:
    found = drawn_by_score(scores, keep, way, random.Random(seed))
    assert len(found) == len(set(found)) == min(keep, len(scores))
    outside = sorted(scores, reverse=True)[2 * keep :]
    assert all(scores[place] >= max(outside, default=0) for place in found)
    assert [scores[place] for place in found] == sorted((scores[place] for place in found), reverse=True)
    assert found == drawn_by_score(scores, keep, way, random.Random(seed))
    if way == "best":
        assert [scores[place] for place in found] == sorted(scores, reverse=True)[:keep]


@pytest.mark.parametrize("way", ["proportional", "exponential"])
def test_where_nothing_is_factual_all_have_the_same_chance(way: str) -> None:
    assert drawing_chances([0.0] * 4, way) == [0.25] * 4
    assert sorted(drawn_by_score([0.0] * 4, 2, way, random.Random(1)))


@given(st.lists(st.floats(-700, 700), min_size=1, max_size=8))
def test_softmax_is_what_exponentials_give_and_does_not_overflow(values: list[float]) -> None:
    found = softmax(values)
    assert math.fsum(found) == pytest.approx(1)
    for a, p in zip(values, found, strict=True):
        for b, q in zip(values, found, strict=True):
            if p > 1e-200 and q > 1e-200:
                assert math.log(p / q) == pytest.approx(a - b, abs=1e-6)
