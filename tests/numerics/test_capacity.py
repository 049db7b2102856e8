"""Bits from losses: perfect and guessing models, sizes beyond floats, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.errors import RecordError, SettingsError
from keeps.numerics.capacity import (
    BITS_A_PARAMETER,
    LOG2_S0,
    BioDSize,
    BioSSize,
    Bits,
    Losses,
    answer_bits,
    capacity_ratio,
    facts_that_fit,
    fits,
    log2_choose,
    log2_values,
)


@st.composite
def biod_sizes(draw: st.DrawFn) -> BioDSize:
    alphabet, length = draw(st.integers(2, 40_000)), draw(st.integers(1, 50))
    most = min(10_000, alphabet**length)
    return BioDSize(
        draw(st.integers(1, 10**6)),
        draw(st.integers(1, 50)),
        draw(st.integers(1, 50)),
        draw(st.integers(2, most)),
        length,
        alphabet,
    )


@given(st.integers(1, 400 * 400 * 1000))
def test_a_perfect_model_is_credited_with_every_bit_of_values_and_of_names(persons: int) -> None:
    size = BioSSize(persons)
    expected = persons * (math.log2(160_000_000 / persons) + math.log2(2 * 67_200 * 200 * 300 * 100 * 263))
    assert size.most == pytest.approx(expected, rel=1e-9)
    assert size.stored(Losses(math.log(persons), 0.0)).total == size.most


def test_the_attributes_of_a_person_hold_47_59_bits() -> None:
    assert pytest.approx(47.59, abs=0.005) == LOG2_S0
    assert log2_values((2, 8)) == 4


@given(st.integers(1, 10**6), st.integers(10**6, 10**9), st.floats(0.5, 100))
def test_uniform_guessing_of_bios_stores_nothing(persons: int, names: int, bits: float) -> None:
    size = BioSSize(persons, names, bits)
    assert size.stored(Losses(math.log(names), bits * math.log(2))).total == pytest.approx(0, abs=1e-9 * persons * 100)


@given(biod_sizes())
def test_uniform_guessing_of_biod_stores_nothing_and_knowing_all_stores_all(size: BioDSize) -> None:
    p2 = size.chunks * math.log(size.diversity)
    p3 = max(0.0, size.log2_strings * math.log(2) - math.log(size.diversity))
    assert size.stored(Losses(math.log(size.names), p2, p3)).total == pytest.approx(0, abs=1e-9 * size.most)
    n, k, c, d = size.persons, size.attributes, size.chunks, size.diversity
    strings = size.length * math.log2(size.alphabet) - math.log2(d)
    expected = n * math.log2(size.names / n) + n * k * c * math.log2(d) + k * d * strings
    assert size.most == pytest.approx(expected, rel=1e-9)


@given(biod_sizes(), st.floats(0, 30), st.floats(0, 30), st.floats(0, 30))
def test_more_loss_is_fewer_bits_and_the_theorem_is_below_the_ratio(
    size: BioDSize, p1: float, p2: float, p3: float
) -> None:
    losses = Losses(p1, p2, p3)
    stored, bound = size.stored(losses), size.bound(losses)
    for name in ("name", "value", "diversity"):
        assert getattr(bound, name) <= getattr(stored, name) + 1e-9 * abs(getattr(stored, name))
    worse = size.stored(Losses(p1 + 1, p2 + 1, p3 + 1))
    assert stored.name - worse.name == pytest.approx(size.persons / math.log(2), rel=1e-6)
    assert stored.total > worse.total
    assert stored.clamped.total >= max(0.0, stored.total)


@given(st.integers(1, 10**6))
def test_no_model_is_credited_with_more_than_lies_in_the_data(persons: int) -> None:
    size = BioSSize(persons)
    assert size.most <= size.data * (1 + 1e-12)
    assert size.bound(size.perfect).total <= size.most


@given(st.integers(0, 3000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_binomial_coefficients_match_whole_numbers(pair: tuple[int, int]) -> None:
    n, k = pair
    if n:
        assert log2_choose(math.log2(n), k) == pytest.approx(math.log2(math.comb(n, k)), rel=1e-9, abs=1e-7)


@pytest.mark.parametrize(("n", "k"), [(2**26 + 1, 1000), (2**30, 4096), (40_000**50, 300), (10**400, 17), (2**60, 1)])
def test_binomial_coefficients_of_large_sets_match_whole_numbers(n: int, k: int) -> None:
    exact = math.log2(math.comb(n, k)) if n.bit_length() < 100 and k < 2000 else _log2_integer(math.comb(n, k))
    assert log2_choose(_log2_integer(n), k) == pytest.approx(exact, rel=1e-9)


def _log2_integer(n: int) -> float:
    shift = max(0, n.bit_length() - 200)
    return shift + math.log2(n >> shift)


def test_the_theorem_credits_nothing_for_names_where_all_are_taken() -> None:
    size = BioSSize(8, 8, 3.0)
    assert size.bound(size.perfect).name == -math.inf
    assert size.bound(size.perfect).clamped == Bits(0.0, 24.0)


@given(st.floats(-200, 0), st.floats(0, 40))
def test_answer_bits_are_those_of_the_ratio_of_probabilities(logprob: float, guess: float) -> None:
    assert answer_bits(logprob, guess) == pytest.approx(math.log2(2**guess * math.exp(logprob)), abs=1e-9)


def test_estimates_follow_the_published_ratios() -> None:
    assert facts_that_fit(1_000_000, 10.0) == 200_000
    assert facts_that_fit(1_000_000, 10.0, 100) == 100_000
    assert capacity_ratio(500.0, 250) == 2
    assert fits(2**70, 2, 70)
    assert not fits(2**70 + 1, 2, 70)
    assert set(BITS_A_PARAMETER) == {100, 1000}


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: BioSSize(11, 10), "N = 11"),
        (lambda: BioSSize(0), "N = 0"),
        (lambda: BioSSize(1, 10, 0.0), "S_0"),
        (lambda: BioDSize(11, 1, 1, 2, 1, 2, names=10), "N = 11"),
        (lambda: BioDSize(1, 1, 1, 1, 1, 2), "D is 1"),
        (lambda: BioDSize(1, 1, 1, 5, 2, 2), r"D = 5 .* T\^L = 2\^2"),
        (lambda: BioDSize(1, 0, 1, 2, 1, 2), "attributes"),
        (lambda: facts_that_fit(10, 1.0, 300), "300 exposures"),
        (lambda: facts_that_fit(10, 0.0), "0 bits"),
        (lambda: capacity_ratio(1.0, 0), "0 parameters"),
    ],
)
def test_impossible_sizes_are_refused(make: Any, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        make()


@pytest.mark.parametrize("values", [(-0.1, 1.0), (1.0, math.nan), (math.inf, 1.0)])
def test_losses_that_cannot_be_are_refused(values: tuple[float, float]) -> None:
    with pytest.raises(RecordError, match="the loss p"):
        Losses(*values)


@pytest.mark.parametrize("logprob", [0.5, math.nan])
def test_a_probability_above_one_is_refused(logprob: float) -> None:
    with pytest.raises(RecordError, match="log-probability"):
        answer_bits(logprob, 3.0)


def test_no_more_than_all_can_be_chosen() -> None:
    with pytest.raises(ValueError, match="can be chosen"):
        log2_choose(3.0, 9)
    assert log2_choose(3.0, 8) == pytest.approx(0, abs=1e-12)
