"""Relative similarity: 1 for identical related sets, 0 for chance, and sums against loops."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keeps.numerics.relative_similarity import (
    Related,
    jaccard,
    overlap,
    pair_mean,
    relative_similarity,
    shuffled_p,
    similarities,
)

SETS = st.sets(st.integers(0, 6))


def rsim(sets: list[set[int]], labels: list[str], kind: str = "overlap") -> float:
    matrix, pairs = similarities(list(sets), kind), Related.of(labels)
    return relative_similarity(float(pair_mean(matrix, pairs.candidates)), float(pair_mean(matrix, pairs.everything)))


@given(SETS, SETS)
def test_similarities_are_symmetric_bounded_and_one_of_equal_sets(one: set[int], other: set[int]) -> None:
    for measure in (overlap, jaccard):
        assert measure(one, other) == measure(other, one)
        assert 0 <= measure(one, other) <= 1
        assert (measure(one, other) == 1) == (one == other)
    j = jaccard(one, other)
    assert overlap(one, other) == pytest.approx(2 * j / (1 + j))


@pytest.mark.parametrize("kind", ["overlap", "jaccard"])
def test_identical_sets_of_related_facts_give_one(kind: str) -> None:
    sets = [{1, 2}, {1, 2}, {3, 4}, {3, 4}, {5, 6}, {5, 6}]
    assert rsim(sets, list("aabbcc"), kind) == pytest.approx(1)


def test_chance_gives_nothing_and_a_large_p() -> None:
    chance = random.Random(0)
    sets = [set(chance.sample(range(30), 5)) for _ in range(60)]
    labels = ["a", "b"] * 30
    assert rsim(sets, labels) < 0.01
    assert shuffled_p(similarities(list(sets)), labels, shuffles=200) > 0.05


def test_a_shared_location_is_told_from_chance() -> None:
    chance = random.Random(1)
    sets = [
        {0, 1, 2, *chance.sample(range(10, 30), 2)} if n % 2 else set(chance.sample(range(30), 5)) for n in range(40)
    ]
    labels = ["a", "b"] * 20
    assert rsim(sets, labels) > 0.1
    assert shuffled_p(similarities(list(sets)), labels, shuffles=200) == pytest.approx(1 / 201)


def test_equal_places_of_all_facts_explain_nothing() -> None:
    assert rsim([{1}, {1}, {1}, {1}], list("aabb")) == 0


def test_pairs_are_those_of_a_loop_over_facts_in_every_sample() -> None:
    chance = random.Random(2)
    sets = [set(chance.sample(range(8), 3)) for _ in range(6)]
    labels = list("aababc")
    matrix = similarities(list(sets))
    weights = torch.tensor([[1.0] * 6, [2, 0, 1, 1, 1, 1]], dtype=torch.float64)
    for within in (None, "a"):
        pairs = Related.of(labels, within)
        for row, counts in enumerate(weights.tolist()):
            related, everything = [], []
            for i, j in itertools.permutations(range(6), 2):
                looked_at = labels.count(labels[i]) > 1 and within in (None, labels[i])
                copies = [float(matrix[i, j])] * int(counts[i] * counts[j])
                everything += copies if looked_at else []
                related += copies if looked_at and labels[i] == labels[j] else []
            assert float(pair_mean(matrix, pairs.candidates, weights)[row]) == pytest.approx(
                sum(related) / len(related)
            )
            assert float(pair_mean(matrix, pairs.everything, weights)[row]) == pytest.approx(
                sum(everything) / len(everything)
            )


def test_a_test_of_one_label_is_refused() -> None:
    with pytest.raises(ValueError, match="related and unrelated"):
        shuffled_p(similarities([{1}, {2}]), ["a", "a"])
    with pytest.raises(ValueError, match="related and unrelated"):
        shuffled_p(similarities([{1}, {2}]), ["a", "b"])
