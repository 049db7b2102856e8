"""The measures of causal tracing: averages of effects over facts, where they peak, and relative similarity."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from keeps.contracts import Row
from keeps.ledger.tables import Table
from keeps.models.causal_tracing import KINDS, MLP
from keeps.numerics.causal_effects import (
    LAST_SUBJECT,
    TOKEN_CLASSES,
    middle,
    peak,
    resampled,
    weighted_means,
)
from keeps.numerics.relative_similarity import Related, pair_mean, relative_similarity, shuffled_p, similarities
from keeps.numerics.statistics import Estimate, shown, shown_interval
from keeps.probe.base import Findings, Measure, ModelRows
from keeps.probe.findings import ALL, groups_of, measure_table, share

INDIRECT, PEAK, PEAK_BLOCK = "effect.indirect", "effect.peak", "block.peak"
TOTAL = ("answered", "probability.clean", "probability.corrupted", "effect.total")


@dataclass(frozen=True)
class Located:
    """What relative similarity compares; see the settings of the probe.

    Attributes:
        neurons: knowledge neurons; else the ``top`` blocks of the largest indirect effect.
        candidates: ``"relation"`` or ``"subject"``, what related facts share.
        similarity: of :data:`keeps.numerics.relative_similarity.SIMILARITIES`.
    """

    neurons: bool = False
    candidates: str = "relation"
    similarity: str = "overlap"
    top: int = 5


def traces(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The traces of the rows that have one."""
    return [row.details["trace"] for row in rows if "trace" in row.details]


def kinds_and_classes(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """What was put back, and the classes of tokens that occur, in the order of the paper."""
    found = traces(rows)
    kinds = {kind for trace in found for kind in trace["restored"]}
    there = {name for trace in found for name in trace["classes"]}
    return [kind for kind in KINDS if kind in kinds], [name for name in TOKEN_CLASSES if name in there]


def indirect_effects(rows: Sequence[Row], kind: str, token_class: str) -> Tensor:
    """IE of each traced fact at each block, ``(facts, blocks)`` float64: the mean over its tokens of the class.

    Not a number where a fact has no such token.
    """
    found = []
    for trace in traces(rows):
        values = torch.tensor(trace["restored"][kind], dtype=torch.float64) - trace["corrupted"]
        chosen = [number for number, name in enumerate(trace["classes"]) if name == token_class]
        found.append(values[chosen].mean(0) if chosen else torch.full((values.shape[-1],), math.nan))
    return torch.stack(found).double() if found else torch.empty(0, 0, dtype=torch.float64)


def tracing_findings(asked: Sequence[ModelRows], located: Located, *, seed: int = 0) -> Findings:
    """Every figure of every model, and three tables: what noise costs, where restoring helps, relative similarity."""
    totals = [measure for model in asked for measure in _totals(model, seed)]
    effects = [measure for model in asked for measure in _effects(model, seed)]
    similar = [measure for model in asked for measure in _similarity(model, located, seed)]
    tables = [measure_table(totals, title="What noise on the subject costs", note=_left_out(asked))]
    peaks = _peak_table(effects, several=len(asked) > 1)
    tables += [peaks] if peaks else []
    if similar:
        what = "neurons" if located.neurons else f"{located.top} blocks"
        note = (
            f"Located: {what}; related: the same {located.candidates}; similarity: {located.similarity}. rsim.p: share "
            "of shuffled labels that do as well. Intervals: 95 %, bootstrap over facts."
        )
        tables.append(measure_table(similar, title="Relative similarity of locations", note=note))
    return Findings(tuple(totals + effects + similar), tuple(tables))


def _groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found = groups_of(rows)
    return {**found, ALL: list(rows)} if len(found) > 1 else {ALL: list(rows)}


def _totals(model: ModelRows, seed: int) -> list[Measure]:
    named: dict[str, Any] = {"model": model.name, "seed": seed}
    found: list[Measure] = []
    for group, rows in _groups(model.rows).items():
        own = traces(rows)
        columns = [
            [trace["clean"] for trace in own],
            [trace["corrupted"] for trace in own],
            [trace["clean"] - trace["corrupted"] for trace in own],
        ]
        found.append(share(TOTAL[0], group, (row.correct for row in rows), **named))
        if not own:
            found += [Measure(metric, group, None, 0, note="no fact traced", **named) for metric in TOTAL[1:]]
            continue
        values = torch.tensor(columns, dtype=torch.float64).T
        drawn = weighted_means(values, resampled(len(own), seed=seed))
        for column, metric in enumerate(TOTAL[1:]):
            ends = _ends(drawn[:, column], len(own))
            found.append(Measure(metric, group, float(values[:, column].mean()), len(own), *ends, "share", **named))
    return found


def _left_out(asked: Sequence[ModelRows]) -> str:
    """How many facts were not traced, and why."""
    notes = []
    for model in asked:
        reasons = [row.details["left_out"] for row in model.rows if "left_out" in row.details]
        counts = ", ".join(f"{reasons.count(reason)} {reason}" for reason in dict.fromkeys(reasons))
        name = f"{model.name}: " if len(asked) > 1 else ""
        notes.append(
            f"{name}{len(traces(model.rows))} of {len(model.rows)} facts were traced" + f"; {counts}." * bool(counts)
        )
    return " ".join(
        [
            *(note if note.endswith(".") else f"{note}." for note in notes),
            "Intervals: 95 %, of means bootstrap over facts.",
        ]
    )


def _effects(model: ModelRows, seed: int) -> list[Measure]:
    """AIE by block over all facts, and the peaks by relation too."""
    named: dict[str, Any] = {"model": model.name, "seed": seed}
    kinds, classes = kinds_and_classes(model.rows)
    found: list[Measure] = []
    for kind in kinds:
        for name in classes:
            for group, rows in _groups(model.rows).items():
                values = indirect_effects(rows, kind, name)
                n = int((~values.isnan().any(1)).sum()) if len(values) else 0
                if not n:
                    continue
                weights = resampled(len(values), seed=seed)
                drawn = weighted_means(values, weights)
                if group == ALL:
                    found += _by_block(f"{INDIRECT}.{kind}.{name}", values, drawn, n, named)
                found += _peak_measures(f"{kind}.{name}", group, values, weights, drawn, n, named)
    return found


def _by_block(metric: str, values: Tensor, drawn: Tensor, n: int, named: dict[str, Any]) -> list[Measure]:
    means = weighted_means(values, torch.ones(1, len(values), dtype=torch.float64))[0]
    return [
        Measure(metric, f"block {block}", float(means[block]), n, *_ends(drawn[:, block], n), "share", **named)
        for block in range(len(means))
    ]


def _peak_measures(
    name: str, group: str, values: Tensor, weights: Tensor, drawn: Tensor, n: int, named: dict[str, Any]
) -> list[Measure]:
    place, height, places = peak(values, weights)
    return [
        Measure(f"{PEAK_BLOCK}.{name}", group, float(place), n, *_ends(places, n), "block", **named),
        Measure(f"{PEAK}.{name}", group, height, n, *_ends(drawn[:, place], n), "share", **named),
    ]


def _ends(draws: Tensor, n: int) -> tuple[float | None, float | None]:
    """The ends of an interval; none of one fact, whose draws are all the same."""
    return (middle(draws) or (None, None)) if n > 1 else (None, None)


def _peak_table(measures: Sequence[Measure], *, several: bool) -> Table | None:
    """One line a kind, class and group: the block of the peak, and the effect there."""
    cells = {(m.model, m.group, m.metric): m for m in measures}
    lines = []
    for block in (m for m in measures if m.metric.startswith(PEAK_BLOCK)):
        name = block.metric.removeprefix(f"{PEAK_BLOCK}.")
        height = cells[block.model, block.group, f"{PEAK}.{name}"]
        kind, _, token = name.partition(".")
        model = (block.model,) if several else ()
        place = f"{block.value:.0f}" + (f"\n{block.low:.0f} to {block.high:.0f}" if block.low is not None else "")
        lines.append((kind, token, block.group, *model, str(block.n), place, _percent(height)))
    if not lines:
        return None
    strong = frozenset(number for number, line in enumerate(lines) if line[2] == ALL)
    columns = (
        "restored",
        "token",
        "group",
        *(("model",) if several else ()),
        "n",
        "peak at block",
        "AIE there (points)",
    )
    note = (
        "Blocks count from 0. Intervals: 95 %, bootstrap over facts. "
        "The largest of many averages is a little too large."
    )
    return Table("Where restoring a clean state helps most", columns, tuple(lines), strong, note)


def _percent(measure: Measure) -> str:
    estimate = Estimate(measure.value or 0.0, measure.low, measure.high, measure.n)
    interval = shown_interval(estimate, scale=100, most=3)
    return shown(estimate, scale=100, most=3) + (f"\n{interval}" if interval else "")


def located_sets(rows: Sequence[Row], located: Located) -> tuple[list[set[Hashable]], list[str]]:
    """Where each traced fact is located, and the label that related ones share.

    Blocks are those of the largest indirect effect of the MLPs at the subject's last token, or of the first kind and
    class that were traced instead.
    """
    chosen = [row for row in rows if "trace" in row.details]
    labels = [str(row.details[located.candidates]) for row in chosen]
    if located.neurons:
        return [{(block, neuron) for block, neuron in row.details["trace"]["neurons"]} for row in chosen], labels
    kinds, classes = kinds_and_classes(chosen)
    if not kinds or not classes:
        return [], []
    kind = MLP if MLP in kinds else kinds[0]
    values = indirect_effects(chosen, kind, LAST_SUBJECT if LAST_SUBJECT in classes else classes[0])
    there = [number for number, own in enumerate(values) if not bool(own.isnan().any())]
    order = values.argsort(dim=1, descending=True)
    return [set(order[number, : located.top].tolist()) for number in there], [labels[number] for number in there]


def _similarity(model: ModelRows, located: Located, seed: int) -> list[Measure]:
    """RSim with its parts, over all facts and by label where there are several facts of it."""
    named: dict[str, Any] = {"model": model.name, "seed": seed}
    sets, labels = located_sets(model.rows, located)
    if len(sets) < 2:
        return []
    matrix, weights = similarities(sets, located.similarity), resampled(len(sets), seed=seed)
    within = [label for label in dict.fromkeys(labels) if labels.count(label) > 1]
    found: list[Measure] = []
    for group in [*(within if located.candidates == "relation" and len(set(labels)) > 1 else []), ALL]:
        pairs = Related.of(labels, None if group == ALL else group)
        n = int(pairs.candidates.any(1).sum())
        if not n:
            note = f"no two facts share a {located.candidates}"
            found.append(Measure("rsim", group, None, len(sets), note=note, unit="rsim", **named))
            continue
        drawn = [pair_mean(matrix, each, weights) for each in (pairs.candidates, pairs.everything)]
        values = [float(pair_mean(matrix, each)) for each in (pairs.candidates, pairs.everything)]
        ratios = ((drawn[0] - drawn[1]) / (1 - drawn[1])).clamp_min(0)
        if not bool(pairs.unrelated.any()):
            note = f"all facts share a {located.candidates}"
            found.append(Measure("rsim", group, None, n, note=note, unit="rsim", **named))
        else:
            value = relative_similarity(*values)
            found.append(Measure("rsim", group, value, n, *_ends(ratios, n), "rsim", **named))
            apart = pair_mean(matrix, pairs.unrelated, weights)
            other = float(pair_mean(matrix, pairs.unrelated))
            found.append(Measure("rsim.related", group, values[0], n, *_ends(drawn[0], n), "similarity", **named))
            found.append(Measure("rsim.all", group, values[1], n, *_ends(drawn[1], n), "similarity", **named))
            found.append(Measure("rsim.unrelated", group, other, n, *_ends(apart, n), "similarity", **named))
            if group == ALL:
                p = shuffled_p(matrix, labels, seed=seed)
                found.append(Measure("rsim.p", group, p, n, unit="p", **named))
    return found
