"""The measures of the priming probe, from the rows of a model before and after it learned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from keeps.contracts import Row
from keeps.errors import RecordError
from keeps.ledger.figures import MUTED, PALETTE, dress, new_figure
from keeps.ledger.tables import Table
from keeps.numerics.bootstrap import bootstrap_interval
from keeps.numerics.priming_scores import (
    THRESHOLD,
    median,
    memorisation_score,
    priming_by_probability,
    priming_score,
    spearman,
)
from keeps.probe.base import Findings, Measure, ModelRows
from keeps.probe.findings import ALL, mean, measure_table, share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNIT = "log10"


@dataclass(frozen=True)
class SampleScore:
    """What learning did to one sample; all scores are log10 of ratios.

    Attributes:
        before: natural log-probability of the keyword after its context, before learning.
        control: priming of the theme's other keywords; None where there are none.
    """

    id: str
    theme: str
    before: float
    memorisation: float
    priming: float
    robust: float
    control: float | None


def sample_scores(
    before: Sequence[Row], after: Sequence[Row], *, whole: bool = True, reduce: Any = "mean_ratio"
) -> list[SampleScore]:
    """The scores of every sample of ``after``; of several copies that learned a sample each, pass its rows alone.

    Args:
        whole: of the whole keyword, or of its first token.

    Raises:
        RecordError: ``before`` lacks a sample.
    """
    mates = {row.id: row for row in before}
    found = []
    for row in after:
        if row.id not in mates:
            raise RecordError(f'the first model was not asked "{row.id}"', where="priming", mend="ask both the same")
        found.append(_score(row, mates[row.id].details, row.details, whole, reduce))
    return found


def in_context_scores(rows: Sequence[Row], *, whole: bool = True, reduce: Any = "mean_ratio") -> list[SampleScore]:
    """The same of a model that has the text in its prompt, against itself without."""
    return [
        _score(row, row.details, row.details["in_context"], whole, reduce)
        for row in rows
        if "in_context" in row.details
    ]


def priming_findings(asked: Sequence[ModelRows], *, whole: bool, reduce: str, seed: int = 0) -> Findings:
    """The forecast of the first model; scores of each later one, and of texts in the prompt."""
    tables: list[Table] = []
    measures = _forecast(asked[0], whole, seed)
    for model in asked[1:]:
        scores = sample_scores(asked[0].rows, model.rows, whole=whole, reduce=reduce)
        measures += _scores(scores, model.name, "", seed)
        tables.append(_bins(scores, model.name))
    for model in asked:
        scores = in_context_scores(model.rows, whole=whole, reduce=reduce)
        measures += _scores(scores, model.name, "in_context.", seed) if scores else []
    forecast = [item for item in measures if item.metric.startswith("keyword")]
    note = f"Below the threshold of {THRESHOLD:g} priming is to be expected. Intervals: 95 %."
    shown = [measure_table(forecast, title="Keywords before learning", note=note)]
    rest = [item for item in measures if item not in forecast]
    if rest:
        ranked = [f"{m.model}, {m.metric}: {m.value:+.2f}" for m in rest if m.unit == "rho" and m.value is not None]
        note = f"0: unchanged against {asked[0].name}. Intervals: 95 %; of medians bootstrap over the texts. "
        lines = [replace(item, group=item.metric, metric="ratio") for item in rest if item.unit == UNIT]
        note += " ".join(f"{text}." for text in ranked)
        shown.append(measure_table(lines, title="What was learned, and what leaked", note=note.strip()))
    return Findings(tuple(measures), tuple(shown + tables))


def draw_priming(asked: Sequence[ModelRows], *, whole: bool, reduce: str) -> Figure | None:
    """log10 S_prime against the probability before learning, a colour a model; None for one model alone."""
    if len(asked) < 2:
        return None
    figure = new_figure(5.6, 4.4)
    axes = figure.add_subplot()
    dress(axes, x="log10 P(keyword) before learning", y="log10 S_prime", title="Priming and its forecast")
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.axvline(math.log10(THRESHOLD), color=MUTED, linewidth=0.8, linestyle="--")
    for number, model in enumerate(asked[1:]):
        scores = sample_scores(asked[0].rows, model.rows, whole=whole, reduce=reduce)
        places = [score.before / math.log(10) for score in scores]
        axes.scatter(
            places, [score.priming for score in scores], s=28, color=PALETTE[number % len(PALETTE)], label=model.name
        )
    figure.legend(loc="outside lower center", ncols=min(len(asked) - 1, 2), frameon=False, fontsize=9.5)
    return figure


def _score(row: Row, before: Mapping[str, Any], after: Mapping[str, Any], whole: bool, reduce: Any) -> SampleScore:
    place = 0 if whole else 1

    def logs(values: Sequence[Sequence[float]]) -> list[float]:
        return [value[place] for value in values]

    one, other = logs(before["prefixes"]), logs(after["prefixes"])
    if len(one) != len(other):
        raise RecordError(f'"{row.id}" was asked after other prefixes', where="priming", mend="ask both the same")
    controls = [
        priming_score(logs(before["controls"][word]), logs(values), reduce=reduce)
        for word, values in after.get("controls", {}).items()
        if word in before["controls"]
    ]
    return SampleScore(
        row.id,
        row.group,
        before["context"][place],
        memorisation_score(before["context"][place], after["context"][place]),
        priming_score(one, other, reduce=reduce),
        priming_score(one, other, reduce="mean_log10"),
        math.fsum(controls) / len(controls) if controls else None,
    )


def _forecast(model: ModelRows, whole: bool, seed: int) -> list[Measure]:
    place, found = (0 if whole else 1), []
    named: dict[str, Any] = {"model": model.name, "seed": seed}
    for group, rows in _with_all(model.rows).items():
        logs = [row.details["context"][place] for row in rows]
        found.append(mean("keyword.log10_probability", group, [v / math.log(10) for v in logs], unit=UNIT, **named))
        found.append(share("keyword.below_threshold", group, (v < math.log(THRESHOLD) for v in logs), **named))
    return found


def _with_all(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.group, []).append(row)
    return {**found, ALL: list(rows)} if len(found) > 1 else {ALL: list(rows)}


def _scores(scores: Sequence[SampleScore], model: str, prefix: str, seed: int) -> list[Measure]:
    named: dict[str, Any] = {"model": model, "seed": seed}
    controls = [score.control for score in scores if score.control is not None]
    columns = {
        "memorisation": [score.memorisation for score in scores],
        "priming": [score.priming for score in scores],
        "priming.mean_log10": [score.robust for score in scores],
        "priming.control": controls,
    }
    found = []
    for name, values in columns.items():
        if not values:
            continue
        found.append(_median(f"{prefix}{name}.median", values, named))
        if name in ("memorisation", "priming"):
            found.append(mean(f"{prefix}{name}.mean", ALL, values, unit=UNIT, **named))
    rho = spearman([score.before for score in scores], columns["priming"])
    note = "" if rho is not None else "it takes two texts that differ"
    found.append(Measure(f"{prefix}priming.spearman", ALL, rho, len(scores), unit="rho", note=note, **named))
    return found


def _median(metric: str, values: Sequence[float], named: dict[str, Any]) -> Measure:
    low, high = (None, None)
    if len(values) > 1:
        low, high = bootstrap_interval([values], lambda samples: median(samples[0]), seed=named["seed"])
    return Measure(metric, ALL, median(values), len(values), low, high, unit=UNIT, **named)


def _bins(scores: Sequence[SampleScore], model: str) -> Table:
    found = priming_by_probability([math.exp(s.before) for s in scores], [s.priming for s in scores])
    rows = tuple(
        (f"{item.low:g} to {item.high:g}", str(item.n), f"{item.mean:+.2f}") for item in found if item.mean is not None
    )
    columns = ("P(keyword) before", "texts", "mean log10 S_prime")
    return Table(f"Priming by probability: {model}", columns, rows, note=f"Threshold of the paper: {THRESHOLD:g}.")
