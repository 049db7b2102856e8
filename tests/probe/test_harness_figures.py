"""Aggregates of harness tasks are made of rows again, with the standard errors of their formulas."""

from __future__ import annotations

import math
import random
import statistics
from typing import Any

import pytest

from keeps.contracts import Row
from keeps.models.harness_model import harness_module
from keeps.probe.base import ModelRows
from keeps.probe.harness_figures import bootstrap_error, draw_tasks, findings_of, mean_error

pytest.importorskip("lm_eval", reason='the evaluation harness is not installed: pip install "keeps[bench]"')


def row_of(task: str, number: int, aggregation: str, **metrics: Any) -> Row:
    details = {
        "metrics": metrics,
        "aggregation": dict.fromkeys((key.partition(",")[0] for key in metrics), aggregation),
    }
    return Row(f"{task}:{number}", task, "", "", "", False, 0.0, details=details)


def test_standard_errors_are_those_of_their_formulas() -> None:
    values = [random.Random(n).gauss(0, 1) for n in range(40)]
    assert mean_error(values) == pytest.approx(harness_module("api.metrics").mean_stderr(values))
    assert mean_error([1.0]) is None
    resampled = bootstrap_error(statistics.fmean, values, seed=3)
    assert resampled == pytest.approx(statistics.pstdev(values) / len(values) ** 0.5, rel=0.1)
    rows = [row_of("a", n, "perplexity", **{"perplexity,none": -abs(value)}) for n, value in enumerate(values)]
    found = {measure.metric: measure for measure in findings_of([ModelRows("m", rows)]).measures}
    assert found["perplexity"].value == pytest.approx(math.exp(statistics.fmean(map(abs, values))))
    low, high, error = found["perplexity"].low, found["perplexity"].high, found["perplexity.stderr"].value
    assert None not in (low, high, error)
    assert (high or 0) - (low or 0) == pytest.approx(2 * 1.959964 * (error or 0))


def test_means_of_several_tasks_are_pooled_and_aggregates_are_not() -> None:
    right = [row_of("a", n, "mean", **{"acc,none": 1.0}) for n in range(3)]
    wrong = [row_of("b", n, "mean", **{"acc,none": 0.0, "f1,none": 0.5}) for n in range(6)]
    found = findings_of([ModelRows("m", [*right, *wrong])]).measures
    assert next((m.metric, m.n, m.value) for m in found if m.group == "all") == ("acc", 9, pytest.approx(1 / 3))
    assert not [m for m in found if m.group == "all" and m.metric == "f1"]
    custom = [row_of("c", n, "custom", **{"own,none": float(n)}) for n in range(3)]
    assert "code of its own" in findings_of([ModelRows("m", custom)]).tables[0].note


def test_the_picture_has_a_bar_a_task_and_model_of_the_metric_that_most_tasks_have() -> None:
    rows = [row_of(task, n, "mean", **{"acc,none": float(n % 2), "ppl,none": 9.0}) for task in "ab" for n in range(4)]
    rows += [row_of("c", n, "mean", **{"f1,none": 1.0}) for n in range(4)]
    figure = draw_tasks(findings_of([ModelRows("m", rows), ModelRows("n", rows)]).measures)
    assert figure is not None
    [axes] = figure.axes
    assert axes.get_xlabel().startswith("acc")
    assert {"a", "b"} <= {label.get_text() for label in axes.get_yticklabels()}
    assert {round(bar.get_width()) for bar in axes.patches} == {50}  # type: ignore[attr-defined]
    assert draw_tasks([]) is None
