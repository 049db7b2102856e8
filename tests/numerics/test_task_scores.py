"""The measures of continual learning on a table done by hand, their identities, and tables that are none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.errors import EmptySetError, RecordError, SettingsError
from keeps.numerics.task_scores import (
    CONVENTIONS,
    ScoreTable,
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    continual_measures,
    forgetting_measure,
    forward_transfer,
    forward_transfer_gem,
    intransigence,
    learning_accuracy,
    mtil_metrics,
    task_forgetting,
)

ROWS = [
    [0.90, 0.20, 0.10, 0.30],
    [0.70, 0.80, 0.25, 0.10],
    [0.75, 0.60, 0.95, 0.20],
    [0.50, 0.85, 0.65, 0.70],
]
EXACT = pytest.approx


def tables(size: int):
    share = st.integers(0, 100).map(lambda number: number / 100)
    return st.lists(st.lists(share, min_size=size, max_size=size), min_size=size, max_size=size)


def test_every_measure_by_hand() -> None:
    table = ScoreTable.of(ROWS)
    assert average_accuracy(table) == EXACT((0.50 + 0.85 + 0.65 + 0.70) / 4, abs=1e-12)
    assert average_accuracy(table, 2) == EXACT(0.75, abs=1e-12)
    steps = [0.90, 0.75, (0.75 + 0.60 + 0.95) / 3, 0.675]
    assert average_incremental_accuracy(table) == EXACT(sum(steps) / 4, abs=1e-12)
    # the largest score before the end: 0.90, 0.80, 0.95
    assert forgetting_measure(table) == EXACT((0.40 - 0.05 + 0.30) / 3, abs=1e-12)
    assert backward_transfer(table) == EXACT((-0.40 + 0.05 - 0.30) / 3, abs=1e-12)
    assert learning_accuracy(table) == EXACT((0.90 + 0.80 + 0.95 + 0.70) / 4, abs=1e-12)
    assert intransigence(table, [0.9, 0.85, 0.9, 0.8]) == EXACT(0.10, abs=1e-12)
    assert forward_transfer(table, [0.5, 0.7, 0.9, 0.8]) == EXACT((0.10 + 0.05 - 0.10) / 3, abs=1e-12)
    assert forward_transfer_gem(table, [0.1, 0.1, 0.2, 0.15]) == EXACT((0.10 + 0.05 + 0.05) / 3, abs=1e-12)


def test_forgetting_looks_back_to_the_first_model_or_to_the_task_itself() -> None:
    table = ScoreTable.of([[0.5, 0.9, 0.0], [0.5, 0.6, 0.0], [0.4, 0.5, 0.2]])
    assert task_forgetting(table, 2) == EXACT(0.4)
    assert task_forgetting(table, 2, since_learned=True) == EXACT(0.1)


@given(tables(4))
def test_forgetting_is_at_least_what_was_lost_since_the_task_was_learned(rows: list[list[float]]) -> None:
    table = ScoreTable.of(rows, unit="share")
    for k in (2, 3, 4):
        assert forgetting_measure(table, k) >= -backward_transfer(table, k) - 1e-12
        assert forgetting_measure(table, k) >= forgetting_measure(table, k, since_learned=True) - 1e-12
        highest = all(rows[j][j] >= rows[i][j] for j in range(k - 1) for i in range(k - 1))
        if highest:
            assert forgetting_measure(table, k) == EXACT(-backward_transfer(table, k), abs=1e-12)


@given(tables(3))
def test_per_cent_give_the_same_times_a_hundred(rows: list[list[float]]) -> None:
    shares = ScoreTable.of(rows, unit="share")
    percent = ScoreTable.of([[100 * value for value in row] for row in rows], unit="percent")
    for name, value in continual_measures(shares, untrained=[0.0] * 3).items():
        assert continual_measures(percent, untrained=[0.0] * 3)[name] == EXACT(100 * value, abs=1e-9)


def test_a_lower_triangle_is_enough_but_for_tasks_that_are_yet_to_come() -> None:
    lower = ScoreTable.of([row[: number + 1] for number, row in enumerate(ROWS)])
    whole = ScoreTable.of(ROWS)
    for formula in (average_accuracy, average_incremental_accuracy, backward_transfer, learning_accuracy):
        assert formula(lower) == formula(whole)
    with pytest.raises(RecordError, match='task "2" was not scored after task "1"'):
        forward_transfer_gem(lower, [0.0] * 4)


def test_everything_at_once_says_its_convention() -> None:
    references: dict[str, Any] = {"joint": [0.5] * 4, "single": [0.5] * 4, "untrained": [0.1] * 4}
    found = continual_measures(ScoreTable.of(ROWS), **references)
    assert set(found) == set(CONVENTIONS)
    assert set(continual_measures(ScoreTable.of(ROWS), **references, k=1)) == {
        "average_accuracy",
        "average_incremental_accuracy",
        "learning_accuracy",
        "intransigence",
    }


def test_the_measures_of_mtil_by_hand_and_a_true_zero_counts() -> None:
    transfer, average, last = mtil_metrics(ScoreTable.of(ROWS))
    assert transfer == EXACT((0.20 + (0.10 + 0.25) / 2 + (0.30 + 0.10 + 0.20) / 3) / 3)
    assert average == EXACT(sum(map(sum, ROWS)) / 16)
    assert last == EXACT((0.50 + 0.85 + 0.65 + 0.70) / 4)
    assert mtil_metrics(ScoreTable.of([[1.0, 0.0, 0.0], [1.0, 1.0, 0.5], [1.0] * 3]))[0] == EXACT((0 + 0.25) / 2)
    with pytest.raises(RecordError, match="was not scored after"):
        mtil_metrics(ScoreTable.of([row[: k + 1] for k, row in enumerate(ROWS)]))
    with pytest.raises(SettingsError, match="k is 1"):
        mtil_metrics(ScoreTable.of([[0.5]]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0.5], [0.5]], "row has 1 scores"),
        ([[0.5], [0.5, 0.5, 0.5]], "row has 3 scores"),
        ([[0.5], [None, 0.5]], "score of task 1 is missing"),
        ([[0.5], [float("nan"), 0.5]], "score of task 1 is missing"),
        ([[0.5], [0.5, 50.0]], "a share or per cent"),
        ([[0.5], [0.5, -0.5]], "out of range"),
        ([[50.0], [50.0, 101.0]], "out of range"),
    ],
)
def test_unbalanced_tables_and_bad_scores_are_refused(rows: list, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        ScoreTable.of(rows)


def test_what_is_not_defined_is_refused() -> None:
    table = ScoreTable.of(ROWS)
    with pytest.raises(EmptySetError):
        ScoreTable.of([])
    with pytest.raises(RecordError, match="name each task once"):
        ScoreTable.of(ROWS, tasks=["a", "a", "b", "c"])
    for formula in (forgetting_measure, backward_transfer):
        with pytest.raises(SettingsError, match="k is 1"):
            formula(table, 1)
    with pytest.raises(SettingsError, match="k is 5"):
        average_accuracy(table, 5)
    with pytest.raises(SettingsError, match="cannot be forgotten"):
        task_forgetting(table, 4)
    with pytest.raises(RecordError, match="3 reference scores for 4 tasks"):
        intransigence(table, [0.5] * 3)
    with pytest.raises(RecordError, match="out of range"):
        forward_transfer(table, [50.0] * 4)
