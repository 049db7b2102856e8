"""The test of two samples against scipy's and against all ways to deal out the values."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import kolmogorov
from scipy.stats import ks_2samp

from keeps.numerics import two_samples
from keeps.numerics.two_samples import kolmogorov_smirnov, kolmogorov_tail

VALUES = st.lists(st.floats(-5, 5), min_size=1, max_size=25)


@pytest.mark.filterwarnings("ignore:ks_2samp")
@given(VALUES, VALUES)
def test_statistic_and_p_are_those_of_scipy(one: list[float], other: list[float]) -> None:
    expected: Any = ks_2samp(one, other, method="exact")
    found = kolmogorov_smirnov(one, other)
    assert found.exact
    assert found.statistic == pytest.approx(float(expected.statistic), abs=1e-12)
    # near 1 scipy's exact sum may fail its own check, and scipy takes the value for large samples (0.99996 for 1)
    close = 1e-3 if found.p > 0.99 else 1e-12
    assert found.p == pytest.approx(float(expected.pvalue), rel=1e-6, abs=close)


def test_p_counts_the_ways_to_deal_out_the_values() -> None:
    pool = [0.1, 0.4, 1.2, 2.5, 3.1, 4.4, 5.0]
    one, other = pool[:3], pool[3:]
    found = kolmogorov_smirnov(one, other)
    dealt: list[Any] = [ks_2samp(part, [v for v in pool if v not in part]) for part in combinations(pool, len(one))]
    distances = [float(each.statistic) for each in dealt]
    assert found.p == pytest.approx(float(np.mean([d >= found.statistic - 1e-12 for d in distances])))


def test_identical_samples_have_p_one_and_distant_ones_a_tiny_exact_p() -> None:
    values = [float(n) for n in range(300)]
    assert kolmogorov_smirnov(values, values).p == 1
    far = kolmogorov_smirnov(values, [value + 1000 for value in values])
    assert far.statistic == 1
    assert 0 < far.p < 1e-170, "2 / C(600, 300)"


def test_large_samples_take_the_limit_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    one, other = random.normal(size=400), random.normal(0.1, size=300)
    exact = kolmogorov_smirnov(one.tolist(), other.tolist())
    monkeypatch.setattr(two_samples, "EXACT_UP_TO", 10)
    limit = kolmogorov_smirnov(one.tolist(), other.tolist())
    assert (exact.exact, limit.exact) == (True, False)
    assert limit.p == pytest.approx(exact.p, abs=0.02)


@given(st.floats(0.05, 6))
def test_the_tail_is_that_of_scipy(x: float) -> None:
    assert kolmogorov_tail(x) == pytest.approx(float(kolmogorov(x)), abs=1e-9)


@pytest.mark.parametrize("other", [[], [float("nan")]])
def test_empty_samples_and_values_that_are_no_numbers_are_refused(other: list[float]) -> None:
    with pytest.raises(ValueError, match="finite values in both"):
        kolmogorov_smirnov([1.0], other)
