"""Neurons by the texts that share them: the published way of moving p, and where it ends."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keeps.numerics.neurons import integrated_gradients, refined_neurons


def scores(*counts: int, texts: int = 10) -> torch.Tensor:
    """Neuron *n* is strong in ``counts[n]`` of the texts; a later one has the smaller scores."""
    found = torch.zeros(texts, len(counts))
    for number, count in enumerate(counts):
        found[:count, number] = 1 - 0.01 * number
    return found


def test_p_stays_where_it_gives_as_many_as_wanted() -> None:
    chosen, p = refined_neurons(scores(10, 7, 6))
    assert (chosen.tolist(), p) == ([0, 1], 0.7)


def test_p_goes_up_while_there_are_too_many_and_down_while_there_are_too_few() -> None:
    chosen, p = refined_neurons(scores(10, 10, 9, 8, 8, 8, 8))
    assert (chosen.tolist(), round(p, 2)) == ([0, 1, 2], 0.85)
    chosen, p = refined_neurons(scores(10, 4, 3))
    assert (chosen.tolist(), round(p, 2)) == ([0, 1], 0.4)


def test_where_no_p_gives_as_many_the_first_of_the_lower_one_count() -> None:
    chosen, p = refined_neurons(scores(10, *[8] * 9))
    assert (chosen.tolist(), round(p, 2)) == ([0, 1, 2, 3, 4], 0.8)
    chosen, p = refined_neurons(scores(*[10] * 9))
    assert (chosen.tolist(), round(p, 2)) == ([0, 1, 2, 3, 4], 1.0)
    chosen, p = refined_neurons(scores(10))
    assert (chosen.tolist(), round(p, 2)) == ([0], 0.05)


def test_without_bounds_p_is_what_was_given() -> None:
    chosen, p = refined_neurons(scores(*[10] * 9, 6), least=0, most=None)
    assert (len(chosen), p) == (9, 0.7)
    assert len(refined_neurons(-scores(5, 5))[0]) == 0


@given(st.lists(st.lists(st.floats(-1, 1, width=32), min_size=6, max_size=6), min_size=1, max_size=8))
def test_there_are_never_more_than_wanted_and_all_are_strong_in_a_share_p(rows: list[list[float]]) -> None:
    values = torch.tensor(rows)
    chosen, p = refined_neurons(values, least=2, most=3)
    assert len(chosen) <= 3
    top = values.amax(1, keepdim=True)
    strong = ((values > 0.2 * top) & (values > 0)).sum(0)
    assert all(int(strong[number]) >= p * len(rows) - 1e-6 for number in chosen.tolist())
    if int((strong > 0).sum()) >= 2:
        assert len(chosen) >= 2


def test_integrals_of_several_texts_at_once_are_those_of_each() -> None:
    a, w = torch.randn(3, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    both = integrated_gradients(lambda rows: (rows @ w).sigmoid(), a, steps=400)
    for number in range(3):
        alone = integrated_gradients(lambda rows: (rows @ w).sigmoid(), a[number], steps=400)
        torch.testing.assert_close(both[number], alone)
        assert float(alone.sum()) == pytest.approx(float((a[number] @ w).sigmoid()) - 0.5, abs=5e-3)
