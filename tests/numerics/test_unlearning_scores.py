"""Scores of forgetting against other ways to compute them."""

from __future__ import annotations

import math
import statistics
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hmean, mannwhitneyu

from keeps.numerics.bootstrap import bootstrap_interval
from keeps.numerics.membership import (
    attack_area,
    loss_score,
    min_k_plus_score,
    min_k_score,
    privacy_leakage,
    reference_score,
    zlib_score,
)
from keeps.numerics.unlearning_scores import (
    exact_memorisation,
    extraction_likelihood,
    extraction_strength,
    harmonic_mean,
    ngram_overlap,
    normalised_probability,
    truth_ratio,
    truth_ratio_forgotten,
    truth_ratio_kept,
)

FLAGS = st.lists(st.booleans(), min_size=1, max_size=12)
LOGPROBS = st.lists(st.floats(-20, -1e-3), min_size=1, max_size=12)


@given(FLAGS)
def test_extraction_strength_searches_the_shortest_prefix(flags: list[bool]) -> None:
    total = len(flags)
    k = next((k for k in range(total) if all(flags[k:])), total)
    assert extraction_strength(flags) == pytest.approx(1 - k / total)
    assert exact_memorisation(flags) == pytest.approx(statistics.fmean(flags))


@given(FLAGS)
def test_the_variant_of_open_unlearning_ends_its_search_one_token_early(flags: list[bool]) -> None:
    k = 0
    for k in range(len(flags)):  # the loop variable keeps its last value where nothing matches
        if flags[k:] == [True] * (len(flags) - k):
            break
    assert extraction_strength(flags, suffix="open_unlearning") == pytest.approx(1 - k / len(flags))
    assert extraction_strength([False, False], suffix="open_unlearning") == 0.5


def test_extraction_likelihood_by_hand() -> None:
    tokens = [1, 2, 3, 4, 5]
    continuations = [[2, 3, 4], [3, 9, 9], [9, 9, 9]]  # after 1, 2 and 3 tokens
    # bigrams 23 34 | 39 99 | 99 99, of which 23 and 34 lie in what follows the first token
    assert extraction_likelihood(continuations, tokens, n=2) == pytest.approx((1 + 0 + 0) / 3)
    assert ngram_overlap([2, 3, 9], tokens, 2) == 0.5
    assert ngram_overlap([2], tokens, 2) == 0
    with pytest.raises(ValueError, match="5 tokens need 3 continuations"):
        extraction_likelihood([], tokens, n=2)


@given(st.floats(-20, 0), LOGPROBS)
def test_truth_ratios_average_losses_or_probabilities(correct: float, wrong: list[float]) -> None:
    geometric = math.exp(statistics.fmean(wrong)) / math.exp(correct)
    arithmetic = statistics.fmean(map(math.exp, wrong)) / math.exp(correct)
    assert truth_ratio(correct, wrong) == pytest.approx(geometric, rel=1e-9)
    assert truth_ratio(correct, wrong, averaging="arithmetic") == pytest.approx(arithmetic, rel=1e-9)
    assert geometric <= arithmetic * (1 + 1e-9)
    share = math.exp(correct) / (math.exp(correct) + sum(map(math.exp, wrong)))
    assert normalised_probability(correct, wrong) == pytest.approx(share, rel=1e-9)


@given(st.floats(1e-6, 1e6))
def test_what_is_made_of_a_truth_ratio(ratio: float) -> None:
    assert truth_ratio_forgotten(ratio) == pytest.approx(math.exp(-abs(math.log(ratio))))
    assert truth_ratio_kept(ratio) == pytest.approx(float(np.clip(1 - ratio, 0, 1)))


def test_truth_ratios_of_impossible_answers_stay_finite() -> None:
    assert math.isfinite(truth_ratio(-1e6, [0.0]))
    assert truth_ratio(0.0, [-1e6]) < 1e-300
    with pytest.raises(ValueError, match="wrong answer"):
        truth_ratio(0.0, [])
    with pytest.raises(ValueError, match="median"):
        truth_ratio(0.0, [0.0], averaging="median")  # type: ignore[arg-type]


@given(st.lists(st.floats(1e-3, 1), min_size=1, max_size=9))
def test_the_harmonic_mean_is_scipys_and_zero_where_one_is_zero(values: list[float]) -> None:
    assert harmonic_mean(values) == pytest.approx(float(hmean(values)))
    assert harmonic_mean([*values, 0.0]) == 0


@given(LOGPROBS, st.floats(0.01, 1))
def test_min_k_takes_the_lowest(logprobs: list[float], share: float) -> None:
    count = max(1, int(len(logprobs) * share))
    assert min_k_score(logprobs, share) == pytest.approx(-float(np.mean(np.sort(logprobs)[:count])))
    assert min_k_score(logprobs, 1.0) == pytest.approx(loss_score(logprobs))


def test_min_k_plus_standardises_each_place() -> None:
    logprobs, means, deviations = [-1.0, -4.0, -2.0], [-2.0, -2.0, -2.0], [1.0, 2.0, 0.0]
    assert min_k_plus_score(logprobs, means, deviations, 1.0) == pytest.approx(-(1 - 1 + 0) / 3)
    assert min_k_plus_score(logprobs, means, deviations, 0.3) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="share"):
        min_k_score(logprobs, 0.0)


@pytest.mark.parametrize("gap", [1.0, 5.0, 60.0, 120.0])
def test_min_k_plus_of_a_token_that_the_model_excludes_is_open_unlearnings(gap: float) -> None:
    logprobs = np.log(np.exp([0.0, -gap, -gap - 20.0]) / np.exp([0.0, -gap, -gap - 20.0]).sum())
    p = np.exp(logprobs).astype(np.float32)  # in which the probability of the others vanishes
    mean = float((p * logprobs).sum())
    variance = float((p * (logprobs - mean) ** 2).sum())
    expected = -(logprobs[1] - mean) / math.sqrt(max(variance, 1e-6))
    assert min_k_plus_score([logprobs[1]], [mean], [math.sqrt(variance)], 1.0) == pytest.approx(expected, rel=1e-6)
    assert expected > 0, "an excluded token speaks against training"


def test_zlib_and_reference_scores() -> None:
    assert zlib_score(2.0, "sea " * 50) == pytest.approx(2 / len(zlib.compress(b"sea " * 50)))
    assert reference_score(2.0, 1.5) == 0.5


@given(st.lists(st.integers(0, 9), min_size=2, max_size=15), st.lists(st.integers(0, 9), min_size=2, max_size=15))
def test_the_area_is_the_rank_test_of_scipy(forget: list[int], holdout: list[int]) -> None:
    expected = mannwhitneyu(holdout, forget).statistic / (len(forget) * len(holdout))
    assert attack_area([float(v) for v in forget], [float(v) for v in holdout]).value == pytest.approx(float(expected))


def test_a_forget_set_with_lower_losses_has_area_one_and_leaks() -> None:
    area = attack_area([0.1, 0.2], [1.0, 2.0]).value
    assert area == 1
    assert privacy_leakage(area, 0.5) == pytest.approx(100)
    assert privacy_leakage(area, 0.5, convention="muse") == pytest.approx(-100)
    assert privacy_leakage(0.47, 0.47) == 0
    with pytest.raises(ValueError, match="not defined"):
        privacy_leakage(0.5, 1.0, convention="muse")


def test_the_bootstrap_of_a_mean_has_the_width_of_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(size=200)
    low, high = bootstrap_interval([values.tolist()], lambda samples: statistics.fmean(samples[0]))
    half = 1.96 * values.std(ddof=1) / math.sqrt(200)
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=half / 4)
    assert (low, high) == bootstrap_interval([values.tolist()], lambda samples: statistics.fmean(samples[0]))
    with pytest.raises(ValueError, match="draw from"):
        bootstrap_interval([[]], lambda samples: 0.0)
