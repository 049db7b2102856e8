"""Figures and tables of KGQuiz: task by domain, by kind of wrong names, by relation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from keeps.contracts import Row
from keeps.data.triples import MASK
from keeps.ledger.tables import Table
from keeps.numerics.discrimination import balanced_accuracy, roc_area
from keeps.numerics.statistics import Estimate, Proportion, shown, shown_interval
from keeps.probe.base import Findings, Measure, ModelRows
from keeps.probe.findings import ALL, difference_table, groups_of, mean, measure_table, share
from keeps.probe.kgquiz_items import BLANK, CHOICE, EDITING, OPEN, TASKS, TRUE_FALSE

FAMILIES = {TRUE_FALSE: "true_false", CHOICE: "choice", BLANK: "blank", EDITING: "editing", OPEN: "open"}
BLANK_SCORES = ("exact_match", "f1", "lcs", "semantic_match")
SCORE = "score"  # the one figure of a task that stands in the matrix
CONSISTENCY = "consistency.blank_given_recognised"


def findings(asked: Sequence[ModelRows], *, multi_gold: bool, options: int, seed: int = 0) -> Findings:
    """Every figure of the card, for each model."""
    measures = [measure for model in asked for measure in _measures(model, multi_gold, options, seed)]
    scores = [measure for measure in measures if measure.metric == SCORE and not measure.group.startswith("relation ")]
    tables = [_matrix(scores, asked, options, multi_gold)]
    for family in FAMILIES.values():
        own = [measure for measure in measures if measure.metric.startswith(f"{family}.")]
        if own:
            tables.append(measure_table(own, title=_title(family), note=_note(family, asked)))
    relations = _by_relation([measure for measure in measures if measure.group.startswith("relation ")])
    consistency = [measure for measure in measures if measure.metric == CONSISTENCY]
    if consistency:
        note = "Of the facts that are right in every question of tasks 1 and 2, the share that is right in task 3."
        tables.append(measure_table(consistency, title="Consistency", note=note))
    tables += [table for table in (relations, difference_table(asked)) if table]
    return Findings(tuple(measures), tuple(tables))


def score_name(task: int, multi_gold: bool) -> str:
    """The metric that stands for a task in the matrix.

    >>> score_name(3, True), score_name(1, True)
    ('blank.semantic_match.any', 'true_false.accuracy')
    """
    if task in (BLANK, EDITING):
        return f"{FAMILIES[task]}.semantic_match" + (".any" if multi_gold else "")
    return "open.f1" if task == OPEN else f"{FAMILIES[task]}.accuracy"


def _measures(model: ModelRows, multi_gold: bool, options: int, seed: int) -> Iterable[Measure]:
    named = {"model": model.name, "seed": seed}
    for task in TASKS:
        rows = [row for row in model.rows if row.details["task"] == task]
        cells = groups_of(rows)
        if len(cells) > 1:
            cells[ALL] = rows
        for group, own in cells.items():
            for measure in _task_measures(task, group, own, named):
                yield measure
                if measure.metric == score_name(task, multi_gold) and group != ALL:
                    yield _renamed(measure, group)
        for relation, own in _relations(rows).items():
            for measure in _task_measures(task, relation, own, named):
                if measure.metric == score_name(task, multi_gold):
                    yield _renamed(measure, f"relation {relation} / task {task}")
    yield from _consistency(model, named)


def _task_measures(task: int, group: str, rows: Sequence[Row], named: Mapping[str, Any]) -> Iterable[Measure]:
    if task == TRUE_FALSE:
        yield from _true_false(group, rows, named)
    elif task == CHOICE:
        yield share("choice.accuracy", group, (row.correct for row in rows), **named)
    elif task == OPEN:
        for name in ("precision", "recall", "f1"):
            yield _mean(f"open.{name}", group, [row.details[name] for row in rows], named)
    else:
        yield from _blank(FAMILIES[task], group, rows, named)


def _true_false(group: str, rows: Sequence[Row], named: Mapping[str, Any]) -> Iterable[Measure]:
    yield share("true_false.accuracy", group, (row.correct for row in rows), **named)
    told, labels = [row.details["told"] for row in rows], [row.details["label"] for row in rows]
    both = len(set(labels)) == 2
    note = "" if both else "statements of one kind only"
    balanced = balanced_accuracy(told, labels) if both else None
    yield _measure("true_false.balanced_accuracy", group, balanced, len(rows), named, note)
    odds = [row.details["log_odds"] for row in rows]
    area = None
    if both and all(value is not None for value in odds):
        found = roc_area(odds, labels, [row.details["fact"] for row in rows])
        low, high = found.interval() or (None, None)
        area = Estimate(found.value, low, high, len(rows))
    elif both:
        note = "an answerer without log-probabilities has no curve"
    yield _measure("true_false.auc", group, area, len(rows), named, note)
    yield share("true_false.yes_rate", group, (value is True for value in told), **named)


def _blank(family: str, group: str, rows: Sequence[Row], named: Mapping[str, Any]) -> Iterable[Measure]:
    for key, suffix in (("gold", ""), ("any", ".any")):
        for name in BLANK_SCORES:
            values = [row.details[key][name] for row in rows]
            metric = f"{family}.{name}{suffix}"
            if name in ("exact_match", "semantic_match"):
                yield share(metric, group, (value == 1.0 for value in values), **named)
            else:
                yield _mean(metric, group, values, named)
    yield _mean(f"{family}.oracle", group, [1 / row.details["accepted"] for row in rows], named)
    if family == FAMILIES[EDITING]:
        yield share("editing.unchanged", group, (row.details["unchanged"] for row in rows), **named)


def _consistency(model: ModelRows, named: Mapping[str, Any]) -> Iterable[Measure]:
    """Right in task 3, of the facts that are right wherever tasks 1 and 2 ask them."""
    facts: dict[str, dict[str, dict[int, list[bool]]]] = {}
    for row in model.rows:
        if row.details["task"] in (TRUE_FALSE, CHOICE, BLANK) and row.details["fact"]:
            domain = facts.setdefault(row.details["domain"], {})
            domain.setdefault(row.details["fact"], {}).setdefault(row.details["task"], []).append(row.correct)
    for domain, asked in facts.items():
        full = [found for found in asked.values() if len(found) == 3]
        if full:
            recognised = [found for found in full if all(found[TRUE_FALSE]) and all(found[CHOICE])]
            right = (all(found[BLANK]) for found in recognised)
            yield share(CONSISTENCY, domain, right, **named, note="no fact was recognised in both tasks")


def _mean(metric: str, group: str, values: Sequence[float], named: Mapping[str, Any]) -> Measure:
    """A mean of shares: its interval is cut at 0 and 1, and there is none where all values are equal."""
    found = mean(metric, group, values, unit="share", **named)
    if found.low is None or found.high is None or min(values) == max(values):
        return replace(found, low=None, high=None)
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))


def _measure(
    metric: str, group: str, found: Proportion | Estimate | None, n: int, named: Mapping[str, Any], note: str
) -> Measure:
    if found is None:
        return Measure(metric, group, None, n, note=note, **named)
    return Measure(metric, group, found.value, n, found.low, found.high, **named)


def _renamed(measure: Measure, group: str) -> Measure:
    return replace(measure, metric=SCORE, group=group)


def _relations(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each relation, those with most rows first; several domains are told apart."""
    several = len({row.details["domain"] for row in rows}) > 1
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.details["relation"]:
            name = row.details["relation"].replace(" / ", "/")
            found.setdefault(f"{row.details['domain']}: {name}" if several else name, []).append(row)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _matrix(scores: Sequence[Measure], asked: Sequence[ModelRows], options: int, multi_gold: bool) -> Table:
    """Tasks and kinds of wrong names down, domains across."""
    cells = {(m.model, *_parts(m.group)): m for m in scores}
    domains = list(dict.fromkeys(domain for _, domain, _ in cells))
    models = [model.name for model in asked]
    lines = []
    for what in sorted({what for _, _, what in cells}):
        for model in models:
            own = [cells.get((model, domain, what)) for domain in domains]
            if any(own):
                task = TASKS[int(what.split()[1].rstrip(","))]
                name = (f"{what}: {task}", *((model,) if len(models) > 1 else ()))
                lines.append((*name, *(_cell(measure) for measure in own)))
    columns = ("task", *(("model",) if len(models) > 1 else ()), *(f"{domain} (%)" for domain in domains))
    names = [f"task {task} {score_name(task, multi_gold)}" for task in sorted(_tasks(asked))]
    note = f"{'; '.join(names)}. Chance: 50 in task 1, {100 / options:.0f} in task 2. Intervals: 95 %."
    return Table("Does knowledge carry over?", columns, tuple(lines), note=note + _threshold(asked))


def _by_relation(measures: Sequence[Measure]) -> Table | None:
    """One line a relation, one column a task."""
    cells = {(m.model, *m.group.removeprefix("relation ").split(" / ")): m for m in measures}
    models, tasks = list(dict.fromkeys(m.model for m in measures)), sorted({task for _, _, task in cells})
    lines = []
    for relation in dict.fromkeys(relation for _, relation, _ in cells):
        for model in models:
            own = [cells.get((model, relation, task)) for task in tasks]
            if any(own):
                name = (relation, *((model,) if len(models) > 1 else ()))
                lines.append((*name, *(_cell(measure, counted=True) for measure in own)))
    if not lines:
        return None
    columns = ("relation", *(("model",) if len(models) > 1 else ()), *(f"{task} (%)" for task in tasks))
    return Table("By relation", columns, tuple(lines), note="Behind each interval the number of questions.")


def _cell(measure: Measure | None, *, counted: bool = False) -> str:
    if measure is None or measure.value is None:
        return ""
    estimate = Estimate(measure.value, measure.low, measure.high, measure.n)
    below = [shown_interval(estimate, scale=100, most=1), f"n {measure.n}" if counted else ""]
    return "\n".join(text for text in (shown(estimate, scale=100, most=1), ", ".join(filter(None, below))) if text)


def _parts(group: str) -> tuple[str, str]:
    domain, _, what = group.rpartition(": ")
    return domain, what


def _tasks(asked: Sequence[ModelRows]) -> set[int]:
    return {row.details["task"] for model in asked for row in model.rows}


def _title(family: str) -> str:
    task = next(task for task, name in FAMILIES.items() if name == family)
    return f"Task {task}: {TASKS[task]}"


def _note(family: str, asked: Sequence[ModelRows]) -> str:
    if family in ("blank", "editing"):
        return (
            "Intervals: 95 %. Those in .any are of the best of all accepted answers; oracle is the exact match "
            "that a perfect memory of the graph would reach against the asked one alone."
            + _threshold(asked)
            + _masks(family, asked)
        )
    return "Intervals: 95 %." + (_threshold(asked) if family == "open" else "")


def _masks(family: str, asked: Sequence[ModelRows]) -> str:
    """A hint where answers repeat the mask: the model was asked in a form that it does not take."""
    rows = [row for model in asked for row in model.rows if FAMILIES[row.details["task"]] == family]
    count = sum(MASK in row.answer for row in rows)
    if 10 * count < len(rows):
        return ""
    hint = " A base model is better asked with --blank-form completion." if family == FAMILIES[BLANK] else ""
    return f" {count} of {len(rows)} answers repeat {MASK}.{hint}"


def _threshold(asked: Sequence[ModelRows]) -> str:
    """Threshold and encoder, which belong to every score that rests on likeness."""
    used = {
        (row.details["encoder"], row.details["tau"]) for model in asked for row in model.rows if "tau" in row.details
    }
    return "".join(f" Semantic match: cosine of {encoder} at least {tau:g}." for encoder, tau in sorted(used))
