from __future__ import annotations

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.numerics.statistics import (
    Estimate,
    decimals,
    mcnemar_exact,
    mean_interval,
    paired_shift,
    ratio_shift,
    shown,
    shown_interval,
    standard_deviation,
    student_quantile,
    wilson,
)

COUNTS = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
FINITE = st.floats(-1e3, 1e3)


@given(COUNTS)
def test_wilson_ends_solve_the_score_equation(counts: tuple[int, int]) -> None:
    successes, n = counts
    share = wilson(successes, n)
    z = NormalDist().inv_cdf(0.975)
    for end in (share.low, share.high):  # |p - end| = z · sqrt(end (1 - end) / n): Wilson's definition
        assert abs(share.value - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n), abs=1e-9)
    assert 0 <= share.low <= share.value <= share.high <= 1


def test_wilson_agrees_with_published_values() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29
    for counts, ends in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        share = wilson(*counts)
        assert (round(share.low, 4), round(share.high, 4)) == ends


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_two_sided_binomial_sum(learned: int, lost: int) -> None:
    flips = learned + lost
    tail = sum(math.comb(flips, k) for k in range(flips + 1) if abs(2 * k - flips) >= abs(learned - lost))
    assert mcnemar_exact(learned, lost) == pytest.approx(min(1.0, tail / 2**flips), rel=1e-12)
    assert mcnemar_exact(learned, lost) == mcnemar_exact(lost, learned)


def test_mcnemar_stays_a_number_for_thousands_of_flips() -> None:
    assert mcnemar_exact(5000, 5000) == 1.0
    assert 0.0 <= mcnemar_exact(9000, 10) < 1e-300


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 30, 101, 2000, 2001, 10**6])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_student_quantile_agrees_with_scipy(freedom: int, confidence: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.t.ppf((1 + confidence) / 2, freedom)
    assert student_quantile(freedom, confidence=confidence) == pytest.approx(expected, rel=2e-6)


def test_student_quantile_agrees_with_the_printed_table() -> None:
    assert [round(student_quantile(k), 3) for k in (1, 2, 4, 9, 29, 120)] == [12.706, 4.303, 2.776, 2.262, 2.045, 1.980]


@given(st.lists(FINITE, min_size=2, max_size=30))
def test_mean_interval_is_symmetric_and_scales(values: list[float]) -> None:
    found = mean_interval(values)
    scaled = mean_interval([2 * value + 1 for value in values])
    assert found.low is not None
    assert found.high is not None
    assert scaled.low is not None
    assert (found.low + found.high) / 2 == pytest.approx(found.value, abs=1e-7)
    assert scaled.low == pytest.approx(2 * found.low + 1, rel=1e-9, abs=1e-7)
    spread = math.sqrt(sum((value - found.value) ** 2 for value in values) / (len(values) - 1))
    assert standard_deviation(values) == pytest.approx(spread, rel=1e-9, abs=1e-12)


def test_one_value_has_a_mean_but_no_interval() -> None:
    assert mean_interval([0.25]) == Estimate(0.25, None, None, 1)


@given(st.lists(st.tuples(FINITE, FINITE), min_size=2, max_size=30))
def test_ratio_shift_with_equal_sizes_is_the_paired_shift(pairs: list[tuple[float, float]]) -> None:
    before, after = [list(side) for side in zip(*pairs, strict=True)]
    ones = [1.0] * len(before)
    ratio, paired = ratio_shift(before, ones, after, ones), paired_shift(before, after)
    assert ratio.value == pytest.approx(paired.value, abs=1e-9)
    assert ratio.low is not None
    assert paired.low is not None
    assert ratio.low == pytest.approx(paired.low, rel=1e-6, abs=1e-6)


def test_ratio_shift_weights_every_token_alike() -> None:
    shift = ratio_shift([10.0, 300.0], [10, 100], [20.0, 300.0], [10, 100])
    assert shift.value == pytest.approx(10 / 110)


def test_the_interval_of_a_ratio_shift_covers_at_its_rate() -> None:
    import random

    dice, hits = random.Random(3), 0
    for _ in range(400):
        sizes = [dice.randint(20, 200) for _ in range(25)]
        before = [size * dice.gauss(3, 0.3) for size in sizes]
        after = [loss + size * dice.gauss(0.1, 0.2) for loss, size in zip(before, sizes, strict=True)]
        shift = ratio_shift(before, sizes, after, sizes)
        assert shift.low is not None
        assert shift.high is not None
        hits += shift.low <= 0.1 <= shift.high
    assert 0.91 <= hits / 400 <= 0.98  # nominal 0.95, standard error 0.011


def test_bad_input_is_refused() -> None:
    for wrong in (
        lambda: wilson(1, 0),
        lambda: wilson(3, 2),
        lambda: mcnemar_exact(-1, 2),
        lambda: mean_interval([]),
        lambda: mean_interval([math.nan]),
        lambda: paired_shift([1.0], [1.0, 2.0]),
        lambda: ratio_shift([1.0], [0], [1.0], [1]),
        lambda: student_quantile(0),
        lambda: wilson(1, 2, confidence=1.0),
    ):
        with pytest.raises(ValueError):
            wrong()


@given(st.floats(1e-9, 1e6))
def test_the_digits_rule_keeps_one_or_two_digits_of_the_interval(half_width: float) -> None:
    places = decimals(half_width)
    in_last_place = half_width * 10**places  # the interval, counted in units of the last digit shown
    if places:
        assert 3.5 <= in_last_place < 36
    else:
        assert in_last_place > 0.94 * 3.5


def test_figures_show_no_more_digits_than_their_interval_allows() -> None:
    assert shown(Estimate(0.45231, 0.40, 0.50, 100), scale=100) == "45"
    assert shown(Estimate(0.45231, 0.44, 0.46, 100), scale=100) == "45.2"
    assert shown(Estimate(0.0312, 0.0251, 0.0373, 9), signed=True) == "+0.031"
    assert shown_interval(Estimate(0.0312, 0.0251, 0.0373, 9), signed=True) == "+0.025 to +0.037"
    assert shown(Estimate(1.0, 1.0, 1.0, 3), scale=100) == "100"
    assert shown_interval(Estimate(3.0, None, None, 1)) == ""
    assert shown(Estimate(math.inf, None, None, 1)) == "not finite"
