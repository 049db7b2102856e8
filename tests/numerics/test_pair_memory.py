"""Weights, reading and the retrieval loss against formulas written out, for any scores."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keeps.numerics.pair_memory import joined, relevance_losses, top_pairs

SCORES = st.lists(st.floats(-20, 20), min_size=2, max_size=9)


def test_the_loss_of_the_published_example_is_0_0943() -> None:
    loss = relevance_losses(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[True, True, False]]))
    assert float(loss[0]) == pytest.approx(0.0943, abs=1e-4)


@given(SCORES, st.data())
def test_the_loss_is_one_sum_of_all_relevant_pairs_inside_the_logarithm(
    scores: list[float], data: st.DataObject
) -> None:
    relevant = data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)).filter(any))
    among = data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    found = relevance_losses(
        torch.tensor([scores], dtype=torch.float64), torch.tensor([relevant]), torch.tensor([among])
    )
    whole = math.fsum(math.exp(s) for s, r, a in zip(scores, relevant, among, strict=True) if r or a)
    wanted = math.fsum(math.exp(s) for s, r in zip(scores, relevant, strict=True) if r)
    assert float(found[0]) == pytest.approx(-math.log(wanted / whole), abs=1e-9)
    assert float(found[0]) >= -1e-9


def test_queries_without_a_relevant_pair_are_left_out_and_their_gradient_is_zero() -> None:
    scores = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    losses = relevance_losses(scores, torch.tensor([[False, False], [True, False]]))
    assert losses.shape == (1,)
    losses.sum().backward()
    assert scores.grad is not None
    assert scores.grad[0].tolist() == [0.0, 0.0]
    # d loss / d s_i = p_i - (share of i in the relevant sum)
    p = math.exp(3) / (math.exp(3) + math.exp(4))
    assert scores.grad[1].tolist() == pytest.approx([p - 1, 1 - p], abs=1e-6)
    assert relevance_losses(scores, torch.zeros(2, 2, dtype=torch.bool)).shape == (0,)


@given(SCORES, st.integers(1, 12))
def test_weights_are_the_softmax_of_the_best_scores_alone(scores: list[float], k: int) -> None:
    places, weights = top_pairs(torch.tensor([scores], dtype=torch.float64), k)
    best = sorted(scores, reverse=True)[:k]
    total = math.fsum(math.exp(score) for score in best)
    assert weights[0].tolist() == pytest.approx([math.exp(score) / total for score in best], abs=1e-9)
    assert [scores[place] for place in places[0].tolist()] == best
    assert len(set(places[0].tolist())) == len(best)


def test_a_pair_that_was_read_is_not_read_again_and_nothing_is_read_where_nothing_is_left() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    places, _ = top_pairs(scores, 2, torch.tensor([[0], [2]]))
    assert places.tolist() == [[1, 2], [1, 0]]
    places, weights = top_pairs(scores, 2, torch.tensor([[0, 1, 2], [0, 1, 2]]))
    assert places.shape == weights.shape == (2, 0)


def test_pairs_stand_behind_the_input_token_by_token_scaled_by_their_weights() -> None:
    states, mask = torch.randn(2, 3, 4), torch.tensor([[1, 1, 1], [1, 1, 0]])
    values, value_mask = torch.randn(2, 2, 5, 4), torch.ones(2, 2, 5, dtype=torch.long)
    plain, there = joined(states, mask, values, value_mask)
    assert torch.equal(plain[:, :3], states)
    assert torch.equal(plain[:, 3:8], values[:, 0])
    assert torch.equal(plain[:, 8:], values[:, 1])
    assert there.sum(dim=1).tolist() == [13, 12]
    weighed, _ = joined(states, mask, values, value_mask, torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
    assert torch.equal(weighed[0, 8:], 0.75 * values[0, 1])
    assert float(weighed[1, 8:].abs().max()) == 0.0
