"""The mixture of a model and a guess: never worse than either, and the best of its grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.numerics.hedged import SHARES, Hedged, hedged

GAINS = st.lists(st.floats(-60, 12), min_size=1, max_size=30)


@given(GAINS)
def test_a_mixture_gains_at_least_as_much_as_the_model_and_as_the_guess_but_for_its_name(gains: list[float]) -> None:
    found = hedged(gains)
    assert found.total >= math.fsum(gains) - 1 - 1e-9
    assert found.total >= -5 - 1e-9


@given(GAINS)
def test_no_share_of_a_fine_grid_gains_much_more(gains: list[float]) -> None:
    fine = np.linspace(0, 1, 321)[:, None]  # every twentieth is one of ours
    with np.errstate(divide="ignore"):
        sums = np.log2(fine * np.exp2(np.array(gains)) + 1 - fine).sum(1)
    found = hedged(gains)
    names = np.where(fine[::20, 0] == 1, 1.0, 5.0)
    assert found.total == pytest.approx(float((sums[::20] - names).max()), abs=1e-6)
    assert found.total + found.naming <= sums.max() + 1e-6


def test_shares_are_named_by_a_code_of_at_most_one() -> None:
    assert math.fsum(2 ** -Hedged(share, ()).naming for share in SHARES) == pytest.approx(1)


@given(st.lists(st.floats(-40, 0), min_size=1, max_size=6))
def test_the_mixture_is_a_predictor_its_probabilities_do_not_exceed_one(logprobs: list[float]) -> None:
    p = np.exp(logprobs) / max(1.0, float(np.exp(logprobs).sum()))  # of all answers, at most 1 together
    guess = 1 / len(p)
    share = hedged([float(np.log2(x / guess)) for x in p]).share
    assert float((share * p + (1 - share) * guess).sum()) <= 1 + 1e-9


def test_facts_that_are_excluded_are_left_to_the_guess() -> None:
    found = hedged([9.0, 9.0, 9.0, -math.inf])
    assert 0 < found.share < 1
    assert min(found.gains) == pytest.approx(math.log2(1 - found.share))
    assert hedged([-5.0, -9.0]).gains == (0.0, 0.0)
    with pytest.raises(ValueError, match="no fact"):
        hedged([])
