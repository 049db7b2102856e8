"""The measures of the continual probe: from the rows of models in order of time to tables, intervals and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keeps.contracts import Row
from keeps.errors import RecordError
from keeps.ledger.figures import PALETTE, WIDTH, dress, new_figure
from keeps.ledger.tables import Table
from keeps.numerics.forgetting import (
    NO_GAIN,
    FuarInterval,
    fuar_interval,
    fuar_multi,
    mean_scores,
    resampled_scores,
)
from keeps.numerics.task_scores import CONVENTIONS, ScoreTable, continual_measures
from keeps.probe.base import Findings, Measure, ModelRows
from keeps.probe.findings import ALL, difference_table, groups_of, mean, measure_table, share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESAMPLES = 1000
CHARACTERS = 70  # of names that fit side by side below a picture
MATCHES: Mapping[str, str] = {"exact": "exact_match", "begins": "begins_with_answer"}
Items = dict[str, list[list[float]]]  # task -> a row a question, a column a model


@dataclass(frozen=True)
class FuarTasks:
    """What FUAR is made of.

    Attributes:
        forget: tasks of old knowledge; with ``phases`` one for each model but the last, None where there is none.
        phases: whether the models are phases of one course of learning, not several outcomes of one phase.
    """

    forget: tuple[str | None, ...]
    update: str | None
    acquire: str | None
    phases: bool = False


def continual_findings(asked: Sequence[ModelRows], *, fuar: FuarTasks | None, seed: int = 0) -> Findings:
    """Everything that can be said of models in order of time.

    Raises:
        RecordError: the models were not asked the same.
    """
    items = paired_items(asked)
    scores = [measure for model in asked for measure in _score_measures(model, seed)]
    measures = list(scores)
    tables = [score_table(asked, items)]
    if fuar is not None:
        found = _fuar_measures(asked, items, fuar, seed)
        measures += found
        tables.append(_fuar_table(found))
    else:
        found = _course_measures(asked, items, seed)
        measures += found
        tables.append(_course_table(found))
    tables.append(measure_table(scores, title="How answers were right"))
    differences = difference_table(asked)
    return Findings(tuple(measures), tuple(tables + ([differences] if differences else [])))


def paired_items(asked: Sequence[ModelRows]) -> Items:
    """The score of each model on each question, by task.

    Raises:
        RecordError: a model was not asked what the first one was.
    """
    columns = [{row.id: row for row in model.rows} for model in asked]
    for model, rows in zip(asked, columns, strict=True):
        if rows.keys() != columns[0].keys():
            what = f"{model.name} and {asked[0].name} were not asked the same questions"
            raise RecordError(what, where="continual", mend="ask all models in one go")
    found: Items = {}
    for row in asked[0].rows:
        found.setdefault(row.group, []).append([rows[row.id].score for rows in columns])
    return found


def score_table(asked: Sequence[ModelRows], items: Items) -> Table:
    """Tasks by models: mean scores in per cent with intervals (Wilson, or Student's for several wordings)."""
    lines = []
    for task, rows in items.items():
        cells = [_cell(_mean_measure("score", task, [row[n] for row in rows], "", 0)) for n in range(len(asked))]
        lines.append((task, str(len(rows)), *cells))
    match = MATCHES[str(asked[0].rows[0].details["match"])]
    note = f"Share of right answers ({match}) in %, models in order of time. Intervals: 95 %."
    return Table(
        "Score of each task over time", ("task", "n", *(model.name for model in asked)), tuple(lines), note=note
    )


def course_table(items: Items, models: int) -> tuple[ScoreTable, list[float] | None] | None:
    """The table of scores after each task and those before any; None where models and tasks do not fit."""
    if models - len(items) not in (0, 1):
        return None
    columns = {task: mean_scores(rows) for task, rows in items.items()}
    return _course(columns, models)


def _course(columns: Mapping[str, Sequence[float]], models: int) -> tuple[ScoreTable, list[float] | None]:
    first = models - len(columns)
    scores = tuple(tuple(float(column[n]) for column in columns.values()) for n in range(first, models))
    start = [float(column[0]) for column in columns.values()] if first else None
    return ScoreTable(scores, tuple(columns), "share"), start


def _course_measures(asked: Sequence[ModelRows], items: Items, seed: int) -> list[Measure]:
    fits = course_table(items, len(asked))
    count = sum(map(len, items.values()))
    if fits is None:
        note = (
            f"{len(asked)} models for {len(items)} tasks; one after each task is needed, and the one before if wanted"
        )
        return [
            Measure(name, ALL, None, count, model=asked[-1].name, seed=seed, note=note)
            for name in ("average_accuracy", "forgetting_measure", "backward_transfer")
        ]
    table, start = fits
    drawn = resampled_scores(items, resamples=RESAMPLES, seed=seed)
    columns = [{task: values[n].tolist() for task, values in drawn.items()} for n in range(RESAMPLES)]
    courses = [_course(each, len(asked)) for each in columns]
    measures = []
    for k in range(1, len(table) + 1):
        name = asked[k - len(table) - 1].name  # the model before all tasks, where there is one, has no k
        resampled = [continual_measures(each, untrained=before, k=k) for each, before in courses]
        for metric, value in continual_measures(table, untrained=start, k=k).items():
            low, high = _ends([each[metric] for each in resampled])
            measures.append(Measure(metric, ALL, value, count, low, high, "share", name, seed, CONVENTIONS[metric]))
    return measures


def _fuar_measures(asked: Sequence[ModelRows], items: Items, tasks: FuarTasks, seed: int) -> list[Measure]:
    used = [name for name in (*tasks.forget, tasks.update, tasks.acquire) if name]
    count = sum(len(items[task]) for task in used)
    if tasks.phases and len(asked) > 2:
        return [_fuar_of_phases(asked, items, tasks, count, seed)]
    forget = [name for name in tasks.forget if name]
    measures = []
    for n in range(1, len(asked)):
        pairs = {task: [(row[0], row[n]) for row in items[task]] for task in used}
        found = fuar_interval(pairs, forget=forget, update=tasks.update, acquire=tasks.acquire, seed=seed)
        named = {"model": asked[n].name, "seed": seed}
        measures.append(_fuar_measure(found, count, **named))
        parts = {
            "forgotten": found.result.forgotten,
            "updated": found.result.updated,
            "acquired": found.result.acquired,
        }
        measures += [Measure(f"fuar.{part}", ALL, value, count, **named) for part, value in parts.items()]
    return measures


def _fuar_measure(found: FuarInterval, count: int, *, model: str, seed: int) -> Measure:
    note = NO_GAIN if found.result.value is None else ""
    if found.no_gain_share and found.result.value is not None:
        note = f"{NO_GAIN} in {found.no_gain_share:.1%} of resamples"
    bounded = found.high is not None and found.result.value is not None
    low, high = (found.low, found.high) if bounded else (None, None)
    return Measure("fuar", ALL, found.result.value, count, low, high, "ratio", model, seed, note)


def _fuar_of_phases(asked: Sequence[ModelRows], items: Items, tasks: FuarTasks, count: int, seed: int) -> Measure:
    forget = [*tasks.forget, *[None] * (len(asked) - 1 - len(tasks.forget))]
    named = {"unit": "ratio", "model": asked[-1].name, "seed": seed}
    if len(forget) > len(asked) - 1:
        note = f"{len(forget)} forgetting tasks for {len(asked)} models; one for each but the last is needed"
        return Measure("fuar.phases", ALL, None, count, note=note, **named)
    columns = {task: mean_scores(rows) for task, rows in items.items()}
    scores = [{task: column[n] for task, column in columns.items()} for n in range(len(asked))]
    value = fuar_multi(scores, forget, tasks.update, tasks.acquire, unit="share").value
    return Measure("fuar.phases", ALL, value, count, note=NO_GAIN if value is None else "", **named)


def _score_measures(asked: ModelRows, seed: int) -> list[Measure]:
    named = {"model": asked.name, "seed": seed}
    measures = []
    for task, rows in groups_of(asked.rows).items():
        for key, metric in MATCHES.items():
            measures.append(_mean_measure(metric, task, [_over_wordings(row, key) for row in rows], asked.name, seed))
        measures.append(mean("token_f1", task, [_over_wordings(row, "f1") for row in rows], unit="F1", **named))
        stale = [_over_wordings(row, "stale") for row in rows if row.details["wordings"][0]["stale"] is not None]
        if stale:
            measures.append(_mean_measure("stale_rate", task, stale, asked.name, seed))
        logprobs = [row.logprob for row in rows if row.logprob is not None]
        if logprobs:
            measures.append(mean("answer.logprob", task, logprobs, unit="nats", **named))
    return measures


def _mean_measure(metric: str, task: str, values: Sequence[float], model: str, seed: int) -> Measure:
    """Wilson's interval where every value is right or wrong, Student's where there are several wordings."""
    if all(value in (0.0, 1.0) for value in values):
        return share(metric, task, [value == 1.0 for value in values], model=model, seed=seed)
    return mean(metric, task, values, unit="share", model=model, seed=seed)


def _over_wordings(row: Row, key: str) -> float:
    wordings = row.details["wordings"]
    return sum(float(wording[key]) for wording in wordings) / len(wordings)


def _ends(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values)
    rank = max(1, round(0.025 * len(ordered)))
    return ordered[rank - 1], ordered[-rank]


def _cell(measure: Measure) -> str:
    shown = measure_table([measure], title="").rows[0]
    return shown[-1]


def _fuar_table(measures: Sequence[Measure]) -> Table:
    note = (
        "Forgotten, updated and acquired: points of the score against the first model, each clipped at 0. "
        "FUAR: forgotten over updated and acquired; bootstrap over questions, 95 %."
    )
    return measure_table(measures, title="What was lost for what was gained", note=note)


def _course_table(measures: Sequence[Measure]) -> Table:
    told = dict.fromkeys(f"{each.metric}: {each.note}" for each in measures if each.value is not None)
    note = " ".join(["Intervals: 95 %, bootstrap over questions, models paired.", *(f"{text}." for text in told)])
    return measure_table(measures, title="Learned, kept and transferred", note=note)


def draw_over_time(asked: Sequence[ModelRows]) -> Figure | None:
    """The score of each task (with its interval) against the models in order of time."""
    items = paired_items(asked)
    if not items:
        return None
    figure = new_figure(WIDTH, 4.2)
    axes = figure.add_subplot()
    dress(axes, y="right answers (%)", title="Score of each task over time", grid="y")
    for number, (task, rows) in enumerate(items.items()):
        found = [_mean_measure("score", task, [row[n] for row in rows], "", 0) for n in range(len(asked))]
        offset = 0.03 * (number - (len(items) - 1) / 2)
        places = [n + offset for n in range(len(asked))]
        values = [100 * float(each.value or 0) for each in found]
        colour = PALETTE[number % len(PALETTE)]
        axes.plot(places, values, marker="o", markersize=5, linewidth=1.8, color=colour, label=task)
        for place, each in zip(places, found, strict=True):
            if each.low is not None and each.high is not None:
                ends = [max(0.0, 100 * each.low), min(100.0, 100 * each.high)]
                axes.plot([place, place], ends, color=colour, linewidth=1, alpha=0.6)
    crowded = sum(len(model.name) for model in asked) > CHARACTERS
    turned: dict[str, Any] = {"rotation": 20, "ha": "right"} if crowded else {}
    axes.set_xticks(range(len(asked)), [model.name for model in asked], **turned)
    axes.set_xlim(-0.3, len(asked) - 0.7)
    axes.set_ylim(-2, 102)
    figure.legend(loc="outside lower center", ncols=min(len(items), 4), frameon=False, fontsize=9.5)
    return figure
