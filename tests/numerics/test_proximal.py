"""The thresholds: the card's table, against the minimisation that they solve, and how they rise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keeps.numerics.proximal import gap_threshold, share_sum, soft_threshold, threshold_share

VALUES = torch.tensor([0.05, 0.15, 0.19, 0.2, 0.25, -0.3], dtype=torch.float64)
numbers = st.floats(-10, 10, allow_nan=False)
thresholds = st.floats(0, 10, allow_nan=False)


def test_the_soft_threshold_gives_the_table_of_the_card() -> None:
    expected = torch.tensor([0, 0.05, 0.09, 0.1, 0.15, -0.2], dtype=torch.float64)
    torch.testing.assert_close(soft_threshold(VALUES, 0.1), expected)


def test_the_official_threshold_gives_the_table_of_the_card_and_rounding_decides_at_twice_the_threshold() -> None:
    found = gap_threshold(VALUES, 0.1)
    expected = torch.tensor([0, 0, 0, 0.15, -0.2], dtype=torch.float64)
    torch.testing.assert_close(found[[0, 1, 2, 4, 5]], expected)
    assert float(found[3]) in (0.0, pytest.approx(0.1))


@given(st.lists(numbers, min_size=1, max_size=6), thresholds)
def test_the_soft_threshold_minimises_its_objective(values: list[float], k: float) -> None:
    v = torch.tensor(values, dtype=torch.float64)
    found = soft_threshold(v, k)
    grid = torch.linspace(-12, 12, 2401, dtype=torch.float64)[:, None]
    others = k * grid.abs() + (grid - v) ** 2 / 2
    assert bool((k * found.abs() + (found - v) ** 2 / 2 <= others.min(dim=0).values + 1e-9).all())


@given(st.lists(numbers, min_size=1, max_size=6), thresholds)
def test_the_official_threshold_is_the_soft_one_without_what_is_left_below_it(values: list[float], k: float) -> None:
    v = torch.tensor(values, dtype=torch.float64)
    # literally: subtract k above k, add k below -k, then zero what is smaller than k in magnitude
    literal = [x - k if x > k else x + k if x < -k else x for x in v.tolist()]
    literal = [0.0 if abs(x) < k else x for x in literal]
    edge = (v.abs() - k).abs() < 1e-12  # a value of exactly k stays in the literal reading; it is shrunk to 0 here
    torch.testing.assert_close(gap_threshold(v, k)[~edge], torch.tensor(literal, dtype=torch.float64)[~edge])


def test_a_threshold_of_zero_changes_no_bit() -> None:
    v = torch.randn(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(soft_threshold(v, 0.0), v)
    assert torch.equal(gap_threshold(v, 0.0), v)


@pytest.mark.parametrize("operator", [soft_threshold, gap_threshold])
def test_each_value_may_have_a_threshold_of_its_own_and_an_infinite_one_removes(operator: object) -> None:
    k = torch.tensor([0.0, 1.0, math.inf, math.inf])
    found = operator(torch.tensor([3.0, -3.0, 3.0, 0.0]), k)  # type: ignore[operator]
    assert found.tolist() == [3.0, -2.0, 0.0, 0.0]


@given(st.integers(1, 300), st.floats(0, 0.999), st.integers(1, 60))
def test_the_threshold_waits_then_rises_in_equal_steps_to_its_largest(total: int, dense: float, levels: int) -> None:
    shares = [threshold_share(step, total, dense_fraction=dense, levels=levels) for step in range(1, total + 1)]
    waiting = math.floor(dense * total)
    assert all(share == 0 for share in shares[:waiting])
    assert all(share > 0 for share in shares[waiting:])
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert all(abs(share * levels - round(share * levels)) < 1e-9 for share in shares)
    assert share_sum(total, dense_fraction=dense, levels=levels) == pytest.approx(math.fsum(shares))


def test_the_runners_values_add_up_to_what_the_card_says() -> None:
    assert 5e-3 * share_sum(500, dense_fraction=0.5, levels=50) == pytest.approx(0.6375)
