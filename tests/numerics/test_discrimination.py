"""Area, its error, balanced accuracy and thresholds against pairs counted one by one, scipy and resampling."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from keeps.numerics.discrimination import balanced_accuracy, calibrate_threshold, roc_area

ITEMS = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=25)


@given(ITEMS)
def test_the_area_is_the_share_of_pairs_in_the_right_order(items: list[tuple[int, bool]]) -> None:
    high, low = [s for s, label in items if label], [s for s, label in items if not label]
    scores, labels = [float(s) for s, _ in items], [label for _, label in items]
    if not high or not low:
        with pytest.raises(ValueError, match="both classes"):
            roc_area(scores, labels)
        return
    wins = sum((a > b) + 0.5 * (a == b) for a in high for b in low)
    found = roc_area(scores, labels)
    assert found.value == pytest.approx(wins / (len(high) * len(low)))
    assert found.value == pytest.approx(stats.mannwhitneyu(high, low).statistic / (len(high) * len(low)))


def delong(high: list[float], low: list[float]) -> float:
    """DeLong's standard error from the matrix of pairs."""
    wins = [[(a > b) + 0.5 * (a == b) for b in low] for a in high]
    rows = [sum(row) / len(low) for row in wins]
    columns = [sum(column) / len(high) for column in zip(*wins, strict=True)]
    area = sum(rows) / len(high)
    s10 = sum((value - area) ** 2 for value in rows) / (len(high) - 1)
    s01 = sum((value - area) ** 2 for value in columns) / (len(low) - 1)
    return (s10 / len(high) + s01 / len(low)) ** 0.5


def test_without_clusters_the_error_is_delongs() -> None:
    source = random.Random(1)
    high, low = [source.gauss(1, 1) for _ in range(30)], [source.gauss(0, 2) for _ in range(45)]
    found = roc_area(high + low, [True] * 30 + [False] * 45)
    assert found.error == pytest.approx(delong(high, low))


def test_the_error_of_clusters_is_that_of_resampled_clusters() -> None:
    source = random.Random(2)
    pairs = []
    for _ in range(120):
        shared = source.gauss(0, 1.5)  # what a fact's two statements have in common
        pairs.append((shared + source.gauss(0.6, 1), shared + source.gauss(0, 1)))

    def area(several: list[tuple[float, float]], clustered: bool) -> tuple[float, float]:
        scores, labels = [s for pair in several for s in pair], [True, False] * len(several)
        names = [n // 2 for n in range(len(scores))] if clustered else None
        found = roc_area(scores, labels, names)
        assert found.error is not None
        return found.value, found.error

    drawn = [area(source.choices(pairs, k=len(pairs)), True)[0] for _ in range(400)]
    mean = sum(drawn) / len(drawn)
    spread = (sum((value - mean) ** 2 for value in drawn) / (len(drawn) - 1)) ** 0.5
    assert area(pairs, True)[1] == pytest.approx(spread, rel=0.15)
    assert area(pairs, False)[1] > 1.2 * spread  # what is shared cancels, which items taken alone do not show


def test_a_single_cluster_has_no_error_and_odd_input_is_refused() -> None:
    assert roc_area([1.0, 0.0], [True, False]).error is None
    assert roc_area([1.0, 0.0], [True, False]).interval() is None
    with pytest.raises(ValueError, match="finite"):
        roc_area([float("nan"), 0.0], [True, False])


def test_balanced_accuracy_is_one_half_for_a_model_that_always_says_yes() -> None:
    labels = [True] * 90 + [False] * 10
    found = balanced_accuracy([True] * 100, labels)
    assert found.value == 0.5
    assert found.low < 0.5 < found.high
    assert balanced_accuracy([None] * 100, labels).value == 0
    right = balanced_accuracy(labels, labels)
    assert (right.value, right.high) == (1.0, 1.0)


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=1, max_size=15),
    st.sampled_from(["agreement", "f1"]),
)
def test_no_threshold_agrees_better_than_the_calibrated_one(pairs: list[tuple[int, bool]], criterion: str) -> None:
    values, labels = [float(value) for value, _ in pairs], [label for _, label in pairs]

    def merit(tau: float) -> float:
        told = [value >= tau for value in values]
        if criterion == "agreement":
            return sum(a == b for a, b in zip(told, labels, strict=True)) / len(labels)
        hits = sum(a and b for a, b in zip(told, labels, strict=True))
        return 2 * hits / (sum(told) + sum(labels)) if hits else 0.0

    tau, best = calibrate_threshold(values, labels, criterion=criterion)  # type: ignore[arg-type]
    assert merit(tau) == pytest.approx(best)
    assert best == pytest.approx(max(merit(step / 4) for step in range(-24, 26)))


def test_no_pairs_set_no_threshold() -> None:
    with pytest.raises(ValueError, match="labelled"):
        calibrate_threshold([], [])
