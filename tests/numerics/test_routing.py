"""Expert languages, votes and the permutation test against plain loops, and their known answers."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keeps.numerics.routing import (
    agreement,
    chosen_languages,
    majority,
    oracle,
    paired_bootstrap,
    permutation_p,
    random_language,
    routed,
    routing_table,
    top_votes,
)
from keeps.numerics.statistics import flips


def table(seed: int, n: int = 40, languages: int = 4, k: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return torch.randint(k, (n,), generator=chance), torch.rand(n, languages, generator=chance) < 0.5


def expert_by_hand(
    labels: list[int], correct: list[list[bool]], topic: int, english: int, support: int, shrink: float
) -> int:
    """The rule of the card with loops and fractions of whole numbers."""
    own = [row for label, row in zip(labels, correct, strict=True) if label == topic]
    width = len(correct[0])
    overall = [sum(row[n] for row in correct) / len(correct) for n in range(width)]

    def score(n: int) -> float:
        if len(own) < max(support, 1) or math.isinf(shrink):
            return overall[n]
        return (sum(row[n] for row in own) + shrink * overall[n]) / (len(own) + shrink)

    return max(range(width), key=lambda n: (score(n), overall[n], n == english, -n))


@given(st.integers(0, 5000), st.integers(0, 3), st.sampled_from([0, 5, 12, 100]), st.sampled_from([0.0, 7.0, math.inf]))
def test_experts_are_those_of_the_rule_with_ties_support_and_shrinkage(
    seed: int, english: int, support: int, shrink: float
) -> None:
    labels, correct = table(seed, n=20)
    found = routing_table(labels, correct, 3, english=english, support=support, shrink=shrink)
    expected = [
        expert_by_hand(labels.tolist(), correct.tolist(), topic, english, support, shrink) for topic in range(3)
    ]
    assert found.experts.tolist() == expected
    assert found.counts.tolist() == [labels.tolist().count(topic) for topic in range(3)]
    assert [sorted(line) for line in found.ranked.tolist()] == [[0, 1, 2, 3]] * 3


def test_ties_go_to_the_better_language_then_to_english() -> None:
    labels = torch.tensor([0, 0, 1])
    correct = torch.tensor([[1, 1, 1], [0, 0, 0], [0, 1, 1]]).bool()
    assert routing_table(labels, correct, 2, english=0).experts.tolist() == [1, 1]
    assert routing_table(labels, correct, 2, english=2).experts.tolist() == [2, 2]
    with pytest.raises(ValueError, match="labels"):
        routing_table(labels[:2], correct, 2)


@given(st.integers(0, 5000))
def test_one_topic_and_infinite_shrinkage_are_the_best_single_language(seed: int) -> None:
    labels, correct = table(seed)
    one = routing_table(torch.zeros_like(labels), correct, 1)
    assert one.experts.tolist() == [one.best_single]
    assert correct[:, one.best_single].sum() == correct.sum(0).max()
    assert set(routing_table(labels, correct, 3, shrink=math.inf).experts.tolist()) == {one.best_single}


@given(st.integers(0, 5000))
def test_the_oracle_bounds_every_routing_and_a_random_language_is_the_mean(seed: int) -> None:
    labels, correct = table(seed)
    found = routed(labels, correct, routing_table(labels, correct, 3).experts)
    assert bool((oracle(correct) | ~found).all())
    assert float(random_language(correct).mean()) == pytest.approx(float(correct.double().mean()))
    assert found.double().mean() >= correct.double().mean(0).max() - 1e-12  # on its own questions


@given(st.lists(st.lists(st.integers(-1, 3), min_size=5, max_size=5), min_size=1, max_size=8))
def test_votes_are_those_of_a_counter_and_ties_go_where_they_are_said_to_go(rows: list[list[int]]) -> None:
    first, smallest = (majority(torch.tensor(rows), ties=ties).tolist() for ties in ("first", "smallest"))
    for row, one, other in zip(rows, first, smallest, strict=True):
        votes = Counter(option for option in row if option >= 0)
        most = max(votes.values(), default=0)
        leading = [option for option in row if votes[option] == most] if votes else [-1]
        assert one == leading[0]
        assert other == min(leading)


def test_three_equal_lists_return_that_list_and_the_best_three_decide() -> None:
    picks = torch.tensor([[1, 0, 2, 2], [3, 3, 0, 1]])
    assert majority(picks[:, :1].expand(-1, 3)).tolist() == [1, 3]
    ranked = torch.tensor([[2, 3, 0, 1], [1, 2, 3, 0]])
    assert top_votes(torch.tensor([0, 1]), picks, ranked).tolist() == [2, 3]
    with pytest.raises(ValueError, match="ties"):
        majority(picks, ties="last")


def test_agreement_flips_and_named_languages_are_counted_by_hand() -> None:
    correct = torch.tensor([[1, 1], [1, 0], [0, 0], [0, 1]]).bool()
    assert agreement(correct).tolist() == [[1.0, 0.5], [0.5, 1.0]]
    assert flips(correct[:, 0].tolist(), correct[:, 1].tolist()) == (1, 1)
    assert chosen_languages([("fa", "en"), (), ("xx",)], ["en", "fa"], 0).tolist() == [1, 0, 0]


def test_the_bootstrap_covers_the_difference_and_needs_pairs() -> None:
    chance = torch.Generator().manual_seed(0)
    one, other = torch.rand(400, generator=chance) < 0.7, torch.rand(400, generator=chance) < 0.5
    low, high = paired_bootstrap(one, other)
    difference = (one.double() - other.double()).numpy()
    half = 1.96 * difference.std(ddof=1) / 20  # the normal interval of a mean of 400
    assert low == pytest.approx(difference.mean() - half, abs=0.012)
    assert high == pytest.approx(difference.mean() + half, abs=0.012)
    with pytest.raises(ValueError, match="pairs"):
        paired_bootstrap(one, other[:3])


def test_the_permutation_test_sees_topics_and_not_a_language_that_is_better_everywhere() -> None:
    chance = torch.Generator().manual_seed(1)
    labels = torch.arange(300) % 3
    topical = torch.full((300, 3), 0.4)
    topical[torch.arange(300), labels] = 0.8
    everywhere = torch.full((300, 3), 0.4)
    everywhere[:, 1] = 0.8
    values = []
    for chances in (topical, everywhere):
        correct = torch.rand(300, 3, generator=chance) < chances
        experts = routing_table(labels[:200], correct[:200], 3).experts
        values.append(permutation_p(labels[200:], correct[200:], experts, permutations=199))
    assert values[0] == 1 / 200
    assert values[1] == 1.0


def test_the_permutation_test_alarms_as_seldom_as_it_says() -> None:
    alarms = 0
    for seed in range(60):
        labels, correct = table(seed, n=120)
        experts = routing_table(labels[:80], correct[:80], 3).experts
        p = permutation_p(labels[80:], correct[80:], experts, permutations=99, seed=seed)
        alarms += p <= 0.1
    assert alarms <= 12  # 6 are expected, and more than 12 in 1 % of cases
