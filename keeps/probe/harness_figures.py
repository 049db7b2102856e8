"""From rows of harness tasks to figures: the harness's aggregates with their standard errors, tables."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist, fmean, stdev
from typing import TYPE_CHECKING, Any

from keeps.contracts import Row
from keeps.ledger.tables import Table
from keeps.models.harness_model import harness_module
from keeps.probe.base import Findings, Measure, ModelRows
from keeps.probe.findings import ALL, difference_table, draw_rates, groups_of, share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEAN = "mean"
CUSTOM = "custom"  # an aggregation that is code of the task, which rows cannot carry
RESAMPLES = 1000
SLOW = {"bleu": 100, "chrf": 100, "chrf++": 100, "ter": 100}  # resamples, as in the harness
BOOTSTRAPPED = ("median", "nanmean", "perplexity", "f1", "matthews_corrcoef", *SLOW)  # the harness gives others none
Z = NormalDist().inv_cdf(0.975)


def aggregation_names(task: Any) -> dict[str, str]:
    """Name of the aggregation of each metric of a task, as the harness registers it."""
    names = {function: name for name, function in harness_module("api.registry").AGGREGATION_REGISTRY.items()}
    return {metric: names.get(function, CUSTOM) for metric, function in task.aggregation().items()}


def json_value(value: Any) -> Any:
    """A metric of one document as JSON types: numpy's numbers and arrays as Python's, tuples as lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def mean_error(values: Sequence[float]) -> float | None:
    """Standard error of a mean, s / √n with s² = Σ(x - x̄)² / (n - 1); None for one value.

    >>> mean_error([0.0, 1.0])
    0.5
    """
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def bootstrap_error(
    aggregate: Callable[[list[Any]], float], values: Sequence[Any], *, resamples: int = RESAMPLES, seed: int = 0
) -> float | None:
    """Standard error of ``aggregate(values)``: the deviation of its values on resamples (Efron 1979).

    None for one value. A resample on which the aggregate is not defined is left out.
    """
    if len(values) < 2:
        return None
    generator = random.Random(seed)
    found = [float(aggregate(generator.choices(values, k=len(values)))) for _ in range(resamples)]
    finite = [value for value in found if math.isfinite(value)]
    return stdev(finite) if len(finite) > 1 else None


def findings_of(asked: Sequence[ModelRows], *, seed: int = 0) -> Findings:
    """Every metric of every task; metrics that are means over all documents where there are several tasks."""
    measures: list[Measure] = []
    for model in asked:
        groups = groups_of(model.rows)
        for task, rows in groups.items():
            measures += _measures(task, rows, model.name, seed)
        if len(groups) > 1:
            measures += _pooled(model, seed)
    several = len(asked) > 1
    tables = [_table(measures, several)]
    differences = difference_table(asked)
    return Findings(tuple(measures), tuple(tables + ([differences] if differences else [])))


def _measures(task: str, rows: Sequence[Row], model: str, seed: int) -> list[Measure]:
    found: list[Measure] = []
    names = rows[0].details["aggregation"]
    for key in dict.fromkeys(key for row in rows for key in row.details["metrics"]):
        values = [row.details["metrics"][key] for row in rows if key in row.details["metrics"]]
        found += _measure(key, task, values, names.get(key.partition(",")[0], MEAN), model, seed)
    return found


def _measure(key: str, task: str, values: list[Any], how: str, model: str, seed: int) -> list[Measure]:
    """One metric, and behind it its standard error."""
    metric = key.removesuffix(",none")
    named = {"model": model, "seed": seed}
    numbers = [float(value) for value in values if isinstance(value, (int, float))]
    note = ""
    if how == CUSTOM:
        note = "the task aggregates by code of its own; this is the mean over documents"
    if how in (MEAN, CUSTOM, "bypass"):
        if len(numbers) < len(values):
            return [Measure(metric, task, None, len(values), note="its values are no numbers", **named)]
        value, error = fmean(numbers), mean_error(numbers)
        if set(numbers) <= {0.0, 1.0}:
            main = share(metric, task, (bool(number) for number in numbers), note=note, **named)
            return [main, *_error(main, error)]
        unit = "share" if all(0 <= number <= 1 for number in numbers) else "mean"
    else:
        aggregate = harness_module("api.registry").get_aggregation(how)
        value, unit = float(aggregate(values)), how
        resamples = SLOW.get(how, RESAMPLES)
        error = bootstrap_error(aggregate, values, resamples=resamples, seed=seed) if how in BOOTSTRAPPED else None
    low, high = (None, None) if error is None else (value - Z * error, value + Z * error)
    main = Measure(metric, task, value, len(values), low, high, unit, note=note, **named)
    return [main, *_error(main, error)]


def _error(of: Measure, error: float | None) -> list[Measure]:
    if error is None:
        return []
    return [Measure(f"{of.metric}.stderr", of.group, error, of.n, unit=of.unit, model=of.model, seed=of.seed)]


def _pooled(model: ModelRows, seed: int) -> list[Measure]:
    """Metrics that every task has as a mean, over all documents: large tasks count more, as in the harness's groups."""
    groups = groups_of(model.rows)
    shared = set.intersection(*({*rows[0].details["metrics"]} for rows in groups.values()))
    found: list[Measure] = []
    for key in (key for key in model.rows[0].details["metrics"] if key in shared):
        means = all(rows[0].details["aggregation"].get(key.partition(",")[0], MEAN) == MEAN for rows in groups.values())
        if means:
            values = [row.details["metrics"].get(key) for row in model.rows]
            found += _measure(key, ALL, values, MEAN, model.name, seed)
    return found


def _table(measures: Sequence[Measure], several: bool) -> Table:
    errors = {(m.model, m.group, m.metric.removesuffix(".stderr")): m for m in measures if m.metric.endswith(".stderr")}
    lines, strong = [], []
    for measure in (measure for measure in measures if not measure.metric.endswith(".stderr")):
        if measure.group == ALL:
            strong.append(len(lines))
        error = errors.get((measure.model, measure.group, measure.metric))
        names = (measure.group, *((measure.model,) if several else ()), measure.metric, str(measure.n))
        lines.append((*names, *_cells(measure, None if error is None else error.value)))
    columns = ("task", *(("model",) if several else ()), "metric", "n", "value", "standard error", "interval")
    notes = dict.fromkeys(f"{m.metric}: {m.note}." for m in measures if m.note)
    note = "Standard errors as in the harness: s/√n, or by bootstrap. Intervals: 95 %; Wilson for right answers."
    return Table("Tasks of the harness", columns, tuple(lines), frozenset(strong), " ".join([note, *notes]))


def _cells(measure: Measure, error: float | None) -> tuple[str, str, str]:
    """Value, standard error and interval, with two digits of the error."""
    if measure.value is None:
        return "not defined", "", ""
    if not error:
        return f"{measure.value:.4g}", "", _interval(measure, 3)
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{measure.value:.{digits}f}", f"{error:.{digits}f}", _interval(measure, digits)


def _interval(measure: Measure, digits: int) -> str:
    if measure.low is None or measure.high is None:
        return ""
    return f"{measure.low:.{digits}f} to {measure.high:.{digits}f}"


def draw_tasks(measures: Sequence[Measure]) -> Figure | None:
    """Bars of the share that most tasks have, by task; None where no task has one."""
    shares = [
        m.metric for m in measures if m.unit == "share" and m.value is not None and not m.metric.endswith(".stderr")
    ]
    chosen = max(dict.fromkeys(shares), key=shares.count, default=None)
    return draw_rates(measures, metric=chosen, title="Tasks of the harness") if chosen else None
