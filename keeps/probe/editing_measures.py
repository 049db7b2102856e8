"""The measures of the editing probe, from the rows of one model or of several."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from keeps.contracts import Row
from keeps.ledger.tables import Table
from keeps.numerics.editing_scores import (
    Overfit,
    argmax_agreement,
    displaces_original,
    fluency,
    length_normalised,
    resists_target,
)
from keeps.numerics.statistics import ratio_shift, wilson
from keeps.probe.base import Findings, Measure, ModelRows
from keeps.probe.findings import ALL, draw_rates, mean, measure_table, share
from keeps.probe.matching import normalised

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCOPES = ("rewrite", "rephrase", "portability", "locality", "locality_truth")
WAYS = ("exact", "token", "probability")
RECALL: Mapping[str, str] = {"efficacy": "rewrite", "paraphrase": "rephrase"}  # tasks of EVOKE -> groups of rows
OVERFIT: Mapping[str, str] = {
    "multi-hop reasoning": "portability: multi_hop",
    "prefix distraction": "locality: prefix_distraction",
    "subject specificity": "locality: same_subject",
    "relation specificity": "locality: same_relation",
}
NO_PROBABILITIES = "the answerer gives no token probabilities"
Value = Callable[[Row], float | None]


def editing_findings(asked: Sequence[ModelRows], *, seed: int = 0) -> Findings:
    """Everything of every model; the first is the unedited one that the others are compared with."""
    measures: list[Measure] = []
    for model in asked:
        named = {"model": model.name, "seed": seed}
        measures += _scope_measures(model, named)
        measures += _locality(asked[0] if model is not asked[0] else None, model, named)
        measures += _overfit(model, named)
        measures += _fluency(model, named)
    return Findings(tuple(measures), tuple(_tables(measures)))


def overfit_items(rows: Iterable[Row], *, recall: bool = False) -> list[tuple[str, Overfit]]:
    """The edit of each of ``rows`` and what EVOKE looks at there.

    Rows without probabilities are left out, and (but for recall tasks) those whose right answer is the target.
    """
    items = []
    for row in rows:
        found, target = _probabilities(row), row.details["target"]
        if not found or (not recall and target in row.details["answers"]):
            continue
        original = row.details["original"]
        correct = None if recall else found[row.details["answers"][0]]
        items.append((row.details["edit"], Overfit(found[target], correct, found.get(original) if original else None)))
    return items


def draw_scopes(measures: Sequence[Measure]) -> Figure | None:
    """Exact answers by scope."""
    chosen = [
        replace(item, metric="exact", group=scope)
        for scope in SCOPES
        for item in measures
        if item.metric == f"{scope}.exact" and item.group == ALL
    ]
    return draw_rates(chosen, metric="exact", title="What the edits changed, and what they kept")


def _scope_measures(model: ModelRows, named: dict) -> list[Measure]:
    found: list[Measure] = []
    for scope in ("rewrite", "rephrase", "portability", "locality"):
        rows = [row for row in model.rows if row.details["scope"] == scope]
        rows = [row for row in rows if row.details["kind"] != "prefix_distraction"]  # a task of EVOKE alone
        title = "locality_truth" if scope == "locality" else scope
        ways: Sequence[tuple[str, Value]] = (("exact", _exact), ("token", _token), ("probability", _probability))
        for way, value in ways:
            found += _by_kind(f"{title}.{way}", [(row, value(row)) for row in rows], named)
    return found


def _locality(before: ModelRows | None, after: ModelRows, named: dict) -> list[Measure]:
    """What the first model said and this one still says; prompts behind a distraction are no part of it."""
    if before is None:
        note = "name the unedited model first, and an edited one after it"
        return [Measure(f"locality.{way}", ALL, None, 0, note=note, **named) for way in WAYS]
    mates = {row.id: row for row in before.rows}
    pairs = [
        (mates[row.id], row)
        for row in after.rows
        if row.details["scope"] == "locality" and row.details["kind"] != "prefix_distraction" and row.id in mates
    ]
    found = []
    for way, value in (("exact", _same_answer), ("token", _same_tokens), ("probability", _same_probability)):
        found += _by_kind(f"locality.{way}", [(row, value(mate, row)) for mate, row in pairs], named)
    return found


def _by_kind(metric: str, values: Sequence[tuple[Row, float | None]], named: dict) -> list[Measure]:
    """Means over edits: of each kind of prompts, and of the kinds that an edit has together."""
    known = [(row, value) for row, value in values if value is not None]
    if values and not known:
        return [Measure(metric, ALL, None, 0, note=NO_PROBABILITIES, **named)]
    kinds = list(dict.fromkeys(row.details["kind"] for row, _ in known))
    of_edits: dict[str, dict[str, list[float]]] = {}
    for row, value in known:
        of_edits.setdefault(row.details["edit"], {}).setdefault(row.details["kind"], []).append(value)
    means = [{kind: _mean(items) for kind, items in by_kind.items()} for by_kind in of_edits.values()]
    groups = {kind: [item[kind] for item in means if kind in item] for kind in kinds if kind}
    everything = [_mean(list(item.values())) for item in means]
    return [_average(metric, group, items, named) for group, items in {**groups, ALL: everything}.items()]


def _average(metric: str, group: str, values: Sequence[float], named: dict) -> Measure:
    """Wilson where every value is yes or no, Student otherwise; cut at 0 and 1, where shares end."""
    if all(value in (0.0, 1.0) for value in values):
        return share(metric, group, (value == 1.0 for value in values), **named)
    found = mean(metric, group, values, unit="share", **named)
    low = None if found.low is None else max(0.0, found.low)
    return replace(found, low=low, high=None if found.high is None else min(1.0, found.high))


def _overfit(model: ModelRows, named: dict) -> list[Measure]:
    found: list[Measure] = []
    for tasks, recall in ((RECALL, True), (OVERFIT, False)):
        for task, group in tasks.items():
            items = overfit_items((row for row in model.rows if row.group == group), recall=recall)
            for score, value in _OVERFIT_TERMS.items():
                terms = [(edit, value(item)) for edit, item in items]
                known = [(edit, term) for edit, term in terms if term is not None]
                if known:
                    found.append(_over_prompts(f"evoke.{score}", task, known, named))
    return found


_OVERFIT_TERMS: Mapping[str, Callable[[Overfit], float | None]] = {
    "dp": lambda item: item.target,
    "cap": lambda item: item.correct,
    "oap": lambda item: item.original,
    "eos": lambda item: None if item.correct is None else float(resists_target(item)),
    "ams": lambda item: None if item.correct is None or item.original is None else float(displaces_original(item)),
}


def _over_prompts(metric: str, group: str, values: Sequence[tuple[str, float]], named: dict) -> Measure:
    """The mean over prompts. The prompts of an edit stand or fall together, so the interval is one over edits."""
    sums: dict[str, list[float]] = {}
    for edit, value in values:
        sums.setdefault(edit, []).append(value)
    sizes = [float(len(items)) for items in sums.values()]
    found = ratio_shift([0.0] * len(sizes), sizes, [math.fsum(items) for items in sums.values()], sizes)
    low, high = found.low, found.high
    if all(value in (0.0, 1.0) for _, value in values) and found.value in (0.0, 1.0):
        ends = wilson(round(found.value * len(sizes)), len(sizes))
        low, high = ends.low, ends.high
    low, high = (None if end is None else min(max(end, 0.0), 1.0) for end in (low, high))
    return Measure(metric, group, found.value, len(values), low, high, "share", **named)


def _fluency(model: ModelRows, named: dict) -> list[Measure]:
    texts = [row.details["generated"] for row in model.rows if "generated" in row.details]
    if not texts:
        return []
    return [mean("fluency.ngram_entropy", ALL, [fluency(text) for text in texts], unit="bits", **named)]


def _tables(measures: Sequence[Measure]) -> list[Table]:
    scopes = [
        replace(item, metric=way, group=scope if item.group == ALL else f"{scope}: {item.group}")
        for scope in SCOPES
        for item in measures
        for way in WAYS
        if item.metric == f"{scope}.{way}"
    ]
    note = (
        "Token: teacher forcing. Locality: against the first model; locality_truth: against the stored answers. "
        "Means over edits; intervals: 95 %."
    )
    shown = [item for item in scopes if item.value is not None or item.group == "locality"]
    shown = [replace(item, note=item.note if item.metric == "exact" else "") for item in shown]
    tables = [measure_table(shown, title="The edits", note=note)]
    tasks = [
        replace(item, metric=item.metric.removeprefix("evoke.").upper()) for item in measures if "evoke" in item.metric
    ]
    if tasks:
        note = (
            "High DP is wanted in the first two tasks and is overfitting in the others; EOS 100: none. Intervals: 95 %."
        )
        tables.append(measure_table(tasks, title="Overfitting (EVOKE)", note=note))
    texts = [item for item in measures if item.metric.startswith("fluency")]
    return [*tables, *([measure_table(texts, title="Generated text")] if texts else [])]


def _exact(row: Row) -> float:
    return float(row.correct)


def _token(row: Row) -> float | None:
    scores = row.details["scores"]
    hits = [scores[text]["hits"] / scores[text]["tokens"] for text in row.details["answers"] if text in scores]
    return max(hits, default=None)


def _probability(row: Row) -> float | None:
    found = _probabilities(row)
    return max((found[text] for text in row.details["answers"] if text in found), default=None)


def _probabilities(row: Row) -> dict[str, float]:
    scores = row.details["scores"]
    return {text: length_normalised(score["logprob"], score["tokens"]) for text, score in scores.items()}


def _same_answer(before: Row, after: Row) -> float:
    return float(normalised(before.answer) == normalised(after.answer))


def _same_tokens(before: Row, after: Row) -> float | None:
    """None where a model gives no probabilities, or cuts the answer into other tokens."""
    both = [row.details["scores"].get(row.details["answers"][0], {}).get("best", []) for row in (before, after)]
    return argmax_agreement(*both) if both[0] and len(both[0]) == len(both[1]) else None


def _same_probability(before: Row, after: Row) -> float | None:
    one, other = (_probabilities(row).get(row.details["answers"][0]) for row in (before, after))
    if one is None or other is None:
        return None
    return min(one, other) / max(one, other) if max(one, other) > 0 else 1.0


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
