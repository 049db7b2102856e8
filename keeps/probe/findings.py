"""From rows to figures that every probing system shares: accuracy by group, paired tests, tables, a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from keeps.contracts import Row
from keeps.ledger.figures import PALETTE, WIDTH, dress, new_figure
from keeps.ledger.tables import Table, p_text
from keeps.numerics.multiple import holm
from keeps.numerics.statistics import (
    Estimate,
    Proportion,
    flips,
    mcnemar_exact,
    mean_interval,
    ratio_shift,
    shown,
    shown_interval,
    wilson,
)
from keeps.probe.base import Findings, Measure, ModelRows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALL = "all"  # the group that pools the others
HEIGHT = 0.3  # inches of a bar


def rates(asked: Sequence[ModelRows], *, seed: int = 0) -> Findings:
    """Accuracy and log-probability by group, and for several models the paired tests against the first."""
    measures = [measure for model in asked for measure in _rates_of(model, seed)]
    tables = [measure_table(measures, title="What the model knows" if len(asked) == 1 else "What the models know")]
    differences = difference_table(asked)
    return Findings(tuple(measures), tuple(tables + ([differences] if differences else [])))


def share(metric: str, group: str, right: Iterable[bool], *, model: str = "", seed: int = 0, note: str = "") -> Measure:
    """The share of ``right`` with its Wilson interval; no value where there is nothing to count."""
    flags = list(right)
    if not flags:
        return Measure(metric, group, None, 0, model=model, seed=seed, note=note or "no question")
    found = wilson(sum(flags), len(flags))
    return Measure(metric, group, found.value, len(flags), found.low, found.high, "share", model, seed, note)


def mean(
    metric: str,
    group: str,
    values: Iterable[float],
    *,
    unit: str,
    model: str = "",
    seed: int = 0,
    note: str = "",
) -> Measure:
    """The mean of ``values`` with Student's interval; no value where there is none."""
    numbers = list(values)
    if not numbers:
        return Measure(metric, group, None, 0, unit=unit, model=model, seed=seed, note=note or "no question")
    found = mean_interval(numbers)
    return Measure(metric, group, found.value, len(numbers), found.low, found.high, unit, model, seed, note)


def groups_of(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows by group, in the order of first appearance."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.group, []).append(row)
    return found


def measure_table(measures: Sequence[Measure], *, title: str, note: str = "Intervals: 95 %.") -> Table:
    """One line a model and group, one column a metric; shares in per cent, digits as their interval allows."""
    metrics = list(dict.fromkeys(measure.metric for measure in measures))
    models = list(dict.fromkeys(measure.model for measure in measures))
    cells = {(measure.model, measure.group, measure.metric): measure for measure in measures}
    lines, strong = [], []
    for group in dict.fromkeys(measure.group for measure in measures):
        for model in models:
            own = [cells.get((model, group, metric)) for metric in metrics]
            if not any(own):
                continue
            if group == ALL:
                strong.append(len(lines))
            counts = {measure.n for measure in own if measure is not None}
            number = str(max(counts))
            lines.append((group, *((model,) if len(models) > 1 else ()), number, *(_cell(item) for item in own)))
    units = {measure.metric: measure.unit for measure in measures}
    headings = tuple(f"{metric} ({'%' if units[metric] == 'share' else units[metric]})" for metric in metrics)
    columns = ("group", *(("model",) if len(models) > 1 else ()), "n", *headings)
    missing = dict.fromkeys(f"{m.metric}: {m.note}" for m in measures if m.value is None and m.note)
    return Table(title, columns, tuple(lines), frozenset(strong), " ".join([note, *(f"{text}." for text in missing)]))


def difference_table(asked: Sequence[ModelRows]) -> Table | None:
    """The first model against each other one, on the questions both were asked; None for one model.

    Exact McNemar tests, corrected by Holm over all lines of the table.
    """
    if len(asked) < 2:
        return None
    first, lines, p_values = asked[0], [], []
    before = {(row.group, row.id): row for row in first.rows if row.kind != "text"}
    for other in asked[1:]:
        pairs: dict[str, list[tuple[bool, bool]]] = {}
        for row in other.rows:
            mate = before.get((row.group, row.id))
            if mate is not None and row.kind != "text":
                pairs.setdefault(row.group, []).append((mate.correct, row.correct))
        for group, both in pairs.items():
            gained, lost = flips((after for _, after in both), (earlier for earlier, _ in both))
            p_values.append(mcnemar_exact(gained, lost))
            change = shown(_change(both), scale=100, signed=True, most=1)
            lines.append((group, other.name, str(len(both)), str(gained), str(lost), change))
    if not lines:
        return None
    cells = tuple((*line, p_text(p)) for line, p in zip(lines, holm(p_values), strict=True))
    columns = ("group", "model", "n", "right only here", "right only before", "difference (points)", "p")
    note = "p: exact McNemar tests, corrected for all lines of this table (Holm)."
    return Table(f"Against {first.name}", columns, cells, note=note)


def draw_rates(measures: Sequence[Measure], *, metric: str = "accuracy", title: str = "") -> Figure | None:
    """Bars of one metric by group with intervals, one colour a model; None where nothing has it."""
    chosen = [measure for measure in measures if measure.metric == metric and measure.value is not None]
    if not chosen:
        return None
    groups = list(dict.fromkeys(measure.group for measure in chosen))
    models = list(dict.fromkeys(measure.model for measure in chosen))
    figure = new_figure(WIDTH, 1.2 + HEIGHT * len(groups) * max(len(models), 1))
    axes = figure.add_subplot()
    percent = chosen[0].unit == "share"
    scale = 100.0 if percent else 1.0
    dress(axes, x=f"{metric} ({'%' if percent else chosen[0].unit})", title=title, grid="x")
    height = 0.8 / len(models)
    for number, model in enumerate(models):
        own = [measure for measure in chosen if measure.model == model]
        places = [groups.index(measure.group) + number * height for measure in own]
        values = [scale * float(measure.value or 0) for measure in own]
        axes.barh(places, values, height=0.9 * height, color=PALETTE[number % len(PALETTE)], label=model)
        for place, measure in zip(places, own, strict=True):
            if measure.low is not None and measure.high is not None:
                axes.plot([scale * measure.low, scale * measure.high], [place, place], color="#1b1f24", linewidth=1)
    axes.set_yticks([position + (len(models) - 1) * height / 2 for position in range(len(groups))], groups)
    axes.invert_yaxis()
    if percent:
        axes.set_xlim(0, 100)
    if len(models) > 1:
        figure.legend(loc="outside lower center", ncols=min(len(models), 3), frameon=False, fontsize=9.5)
    return figure


def _rates_of(asked: ModelRows, seed: int) -> list[Measure]:
    named = {"model": asked.name, "seed": seed}
    found: list[Measure] = []
    known = [row for row in asked.rows if row.kind != "text"]
    groups = groups_of(known)
    if len(groups) > 1:
        groups[ALL] = known
    for group, rows in groups.items():
        found.append(share("accuracy", group, (row.correct for row in rows), **named))
        logprobs = [row.logprob for row in rows if row.logprob is not None]
        if logprobs:
            found.append(mean("answer.logprob", group, logprobs, unit="nats", **named))
    for group, rows in groups_of([row for row in asked.rows if row.kind == "text"]).items():
        tokens = [float(row.details["tokens"]) for row in rows]
        losses = [-(row.logprob or 0.0) for row in rows]
        loss = ratio_shift([0.0] * len(rows), tokens, losses, tokens)
        found.append(Measure("text.loss", group, loss.value, len(rows), loss.low, loss.high, "nats a token", **named))
    return found


def _change(both: Sequence[tuple[bool, bool]]) -> Estimate:
    return mean_interval([float(after) - float(before) for before, after in both])


def _cell(measure: Measure | None) -> str:
    if measure is None:
        return ""
    if measure.value is None:
        return "not defined"
    scale = 100.0 if measure.unit == "share" else 1.0
    if measure.low is None or measure.high is None:
        return shown(Estimate(measure.value, None, None, measure.n), scale=scale, most=3)
    estimate = Proportion(measure.value, measure.low, measure.high)
    return f"{shown(estimate, scale=scale, most=3)}\n{shown_interval(estimate, scale=scale, most=3)}"
