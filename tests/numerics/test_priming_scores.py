"""Priming scores against arrays and scipy."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr

from keeps.numerics.priming_scores import (
    log10_ratio,
    median,
    memorisation_score,
    priming_by_probability,
    priming_score,
    ranks,
    spearman,
)

LOGS = st.lists(st.tuples(st.floats(-12, 0), st.floats(-12, 0)), min_size=1, max_size=9)


@given(LOGS)
def test_priming_is_a_mean_of_ratios_or_of_their_logarithms(pairs: list[tuple[float, float]]) -> None:
    before, after = np.exp([a for a, _ in pairs]), np.exp([b for _, b in pairs])
    lists = [a for a, _ in pairs], [b for _, b in pairs]
    assert priming_score(*lists) == pytest.approx(math.log10((after / before).mean()), abs=1e-9)
    assert priming_score(*lists, reduce="mean_log10") == pytest.approx(np.log10(after / before).mean(), abs=1e-9)
    assert priming_score(*lists) >= priming_score(*lists, reduce="mean_log10") - 1e-9, "Jensen"


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=9))
def test_a_model_that_did_not_change_scores_one(logs: list[float]) -> None:
    assert priming_score(logs, logs) == 0
    assert memorisation_score(logs[0], logs[0]) == 0


def test_ratios_beyond_what_floats_hold_are_cut_off() -> None:
    assert log10_ratio(-1000.0, 0.0) == 12
    assert log10_ratio(0.0, -1000.0) == -12
    assert log10_ratio(-math.inf, -math.inf) == 0
    assert priming_score([-1000.0, 0.0], [0.0, -1000.0]) == pytest.approx(12 - math.log10(2))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_ranks_and_medians(values: list[int]) -> None:
    numbers = [float(value) for value in values]
    assert ranks(numbers) == pytest.approx(rankdata(numbers).tolist())
    assert median(numbers) == statistics.median(numbers)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=15))
def test_rank_correlation_is_scipys(pairs: list[tuple[int, int]]) -> None:
    one, other = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    if len(set(one)) < 2 or len(set(other)) < 2:
        assert spearman(one, other) is None
        return
    expected: Any = spearmanr(one, other)
    assert spearman(one, other) == pytest.approx(float(expected.statistic), abs=1e-9)


def test_bins_hold_their_lower_edge() -> None:
    bins = priming_by_probability([0.0, 1e-3, 5e-3, 1.0], [3.0, 1.0, 2.0, 0.5], edges=(1e-3, 1e-2))
    assert [(item.n, item.mean) for item in bins] == [(1, 3.0), (2, 1.5), (1, 0.5)]
    assert (bins[0].low, bins[-1].high) == (0, 1)
    assert priming_by_probability([0.5], [1.0])[0].mean is None


def test_nothing_to_reduce_is_refused() -> None:
    with pytest.raises(ValueError, match="thematic prefix"):
        priming_score([], [])
    with pytest.raises(ValueError, match="shorter"):
        priming_score([-1.0, -2.0], [-1.0])
    with pytest.raises(ValueError, match="mode"):
        priming_score([-1.0], [-1.0], reduce="mode")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="value"):
        median([])
    assert spearman([1.0], [2.0]) is None
