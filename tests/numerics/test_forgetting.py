"""FUAR: the published table, clipping term by term, "no gain" as a value of its own, phases, intervals, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keeps.errors import EmptySetError, RecordError, SettingsError
from keeps.numerics.forgetting import (
    NO_GAIN,
    check_units,
    fuar,
    fuar_interval,
    fuar_multi,
    mean_scores,
    resampled_scores,
)

TASKS = ("invariant", "updated", "new")
INITIAL = (24.17, 1.62, 1.88)
TABLE = [  # T5-large, table 2 of arXiv:2110.03215
    (12.89, 10.17, 3.77, "1.08"),
    (13.20, 12.55, 4.02, "0.84"),
    (13.92, 6.49, 2.89, "1.74"),
    (16.58, 12.77, 4.52, "0.55"),
    (19.59, 12.34, 5.03, "0.33"),
    (19.76, 12.66, 4.02, "0.33"),
    (20.29, 12.66, 4.65, "0.28"),
]
SHARES = st.integers(0, 64).map(lambda number: number / 64)


def scores(*values: float) -> dict[str, float]:
    return dict(zip(TASKS, values, strict=True))


@pytest.mark.parametrize(("invariant", "updated", "new", "published"), TABLE)
def test_the_published_column_comes_out(invariant: float, updated: float, new: float, published: str) -> None:
    assert fuar(scores(*INITIAL), scores(invariant, updated, new)).label == published


@given(st.tuples(*[SHARES] * 6), st.sampled_from([1, 100]))
def test_it_is_the_ratio_of_clipped_gaps_in_any_unit(values: tuple[float, ...], scale: int) -> None:
    before, after = ([value * scale for value in side] for side in (values[:3], values[3:]))
    unit = "share" if scale == 1 else "percent"
    found = fuar(scores(*before), scores(*after), unit=unit)
    gaps = [max(0.0, sign * (b - a)) for sign, b, a in zip((1, -1, -1), before, after, strict=True)]
    assert (found.forgotten, found.updated, found.acquired) == pytest.approx(tuple(gaps))
    if gaps[1] + gaps[2] == 0:
        assert found.value is None
        assert found.label == NO_GAIN
    else:
        assert found.value == pytest.approx(gaps[0] / (gaps[1] + gaps[2]))


def test_a_loss_in_one_term_takes_nothing_from_a_gain_in_another() -> None:
    assert fuar(scores(0.5, 0.5, 0.5), scores(0.25, 0.0, 1.0)).value == 0.5
    before, after = {"a": 0.5, "b": 0.5, "new": 0.0}, {"a": 0.75, "b": 0.25, "new": 0.5}
    assert fuar(before, after, forget=("a", "b"), update=None, acquire="new").value == 0.5


@pytest.mark.parametrize("after", [(0.5, 0.5, 0.5), (0.1, 0.5, 0.5), (0.9, 0.4, 0.5)])
def test_without_gain_there_is_no_value_even_where_nothing_was_lost(after: tuple[float, float, float]) -> None:
    found = fuar(scores(0.5, 0.5, 0.5), scores(*after))
    assert found.value is None
    assert found.label == "no gain"


def test_one_phase_is_several_with_one() -> None:
    before, after = scores(*INITIAL), scores(*TABLE[0][:3])
    assert fuar_multi([before, after], ["invariant"]) == fuar(before, after)


def test_phases_by_hand() -> None:
    rows = [
        {"old": 0.5, "first": 0.0, "updated": 0.125, "new": 0.0},
        {"old": 0.25, "first": 0.75, "updated": 0.25, "new": 0.125},
        {"old": 0.375, "first": 0.5, "updated": 0.5, "new": 0.0},
    ]
    # lost: 0.125 of old, 0.25 of first; gained: 0.375 and 0.25 in updated, 0 and clipped -0.125 in new
    assert fuar_multi(rows, ["old", "first"]).value == pytest.approx(0.375 / 0.625)
    # a phase whose forgetting task is not defined counts neither above nor below
    assert fuar_multi(rows, ["old", None]).value == pytest.approx(0.125 / 0.375)
    assert fuar_multi(rows, [None, "first"]).value == pytest.approx(0.25 / 0.25)


def test_a_phase_that_does_not_count_needs_no_scores() -> None:
    rows: list[dict[str, float]] = [scores(0.5, 0.0, 0.0), {}, scores(0.25, 0.5, 0.0)]
    assert fuar_multi(rows, ["invariant", None]).value == 0.5


@pytest.mark.parametrize(
    ("before", "after", "unit", "message"),
    [
        ((0.5, 0.5, 1.5), (0.5, 0.5, 0.5), "share", "out of range"),
        ((50.0, 50.0, 101.0), (50.0, 50.0, 50.0), None, "out of range"),
        ((-0.1, 0.5, 0.5), (0.5, 0.5, 0.5), None, "out of range"),
        ((math.nan, 0.5, 0.5), (0.5, 0.5, 0.5), None, "out of range"),
        ((0.24, 0.02, 0.02), (12.89, 10.17, 3.77), None, "a share or per cent"),
    ],
)
def test_bad_scores_and_mixed_units_are_refused(before: Any, after: Any, unit: str | None, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        fuar(scores(*before), scores(*after), unit=unit)


def test_a_named_unit_allows_half_a_per_cent() -> None:
    assert check_units([{"new": 0.5, "old": 50.0}], "percent") == "percent"
    assert check_units([{"new": 0.0, "old": 50.0}]) == "percent"
    with pytest.raises(RecordError, match=r"0\.5 stands beside"):
        check_units([{"new": 0.5, "old": 50.0}])
    with pytest.raises(SettingsError, match="no unit"):
        check_units([{"new": 0.5}], "points")


def test_a_missing_pair_is_refused() -> None:
    for rows in [
        ({"invariant": 0.5, "updated": 0.5}, scores(0, 0, 0)),
        (scores(0, 0, 0), {"updated": 1.0, "new": 0.1}),
    ]:
        with pytest.raises(RecordError, match="there is no score for"):
            fuar(*rows)
    with pytest.raises(SettingsError, match="3 models and 1 forgetting tasks"):
        fuar_multi([scores(0, 0, 0)] * 3, ["invariant"])
    with pytest.raises(SettingsError, match="no forgetting task"):
        fuar_multi([scores(0, 0, 0)] * 2, [None])
    with pytest.raises(SettingsError, match="what was gained"):
        fuar(scores(0, 0, 0), scores(0, 0, 0), update=None, acquire=None)
    with pytest.raises(SettingsError, match="named twice"):
        fuar(scores(0, 0, 0), scores(0, 0, 0), forget=("new",))


def test_resampled_means_have_the_mean_and_the_spread_of_the_bootstrap() -> None:
    rows = [[1.0, 0.0]] * 10 + [[1.0, 1.0]] * 20 + [[0.0, 0.5]] * 10
    drawn = resampled_scores({"t": rows}, resamples=20000, seed=1)["t"]
    table = torch.tensor(rows, dtype=torch.float64)
    expected = torch.cov(table.T, correction=0) / len(rows)  # of a mean over independent draws
    torch.testing.assert_close(drawn.mean(0), table.mean(0), atol=2e-3, rtol=0)
    torch.testing.assert_close(torch.cov(drawn.T), expected, atol=3e-4, rtol=0)
    assert torch.equal(drawn, resampled_scores({"t": rows}, resamples=20000, seed=1)["t"])
    assert mean_scores(rows) == pytest.approx(table.mean(0).tolist())


def test_the_interval_holds_the_value_and_narrows_with_questions() -> None:
    def items(count: int) -> dict[str, list[tuple[float, float]]]:
        lost = [(1.0, 0.0)] * count + [(1.0, 1.0)] * (3 * count)
        gain = [(0.0, 1.0)] * (2 * count) + [(0.0, 0.0)] * (2 * count)
        return {"invariant": lost, "updated": gain, "new": gain}

    few, many = fuar_interval(items(10)), fuar_interval(items(1000))
    assert few.result.value == many.result.value == 0.25
    for found in (few, many):
        assert found.low is not None
        assert found.high is not None
        assert found.low < 0.25 < found.high
    assert few.high - few.low > 5 * (many.high - many.low)  # type: ignore[operator]
    assert few.no_gain_share == 0


def test_an_interval_that_reaches_no_gain_has_no_upper_end() -> None:
    one_gained = [(0.0, 1.0)] + [(0.0, 0.0)] * 9
    found = fuar_interval({"invariant": [(1.0, 0.0)] * 3, "new": one_gained}, update=None)
    assert found.result.value == pytest.approx(10.0)
    assert found.high is None
    assert found.no_gain_share == pytest.approx(0.9**10, abs=0.05)  # that the one question is never drawn
    none = fuar_interval({"invariant": [(1.0, 1.0)], "new": [(0.0, 0.0)]}, update=None)
    assert (none.result.value, none.low, none.high, none.no_gain_share) == (None, None, None, 1.0)


def test_bad_items_are_refused() -> None:
    with pytest.raises(EmptySetError, match="no question"):
        resampled_scores({"t": []})
    with pytest.raises(RecordError, match="unequal numbers"):
        resampled_scores({"t": [(0.0, 1.0), (1.0,)]})
    with pytest.raises(RecordError, match=r"outside \[0, 1\]"):
        resampled_scores({"t": [(0.0, 50.0)]})
