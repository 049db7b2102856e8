"""Diffs and comparisons as tables of text, rounded to what their intervals allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from keeps.ledger.comparison import COSTS, Comparison, MethodRow
from keeps.ledger.lines import GroupDiff, KnowledgeDiff, TextDiff
from keeps.ledger.units import quantity
from keeps.numerics.statistics import Estimate, Proportion, shown, shown_interval


@dataclass(frozen=True)
class Table:
    """Rows of cells. A cell may have a second line, its interval, after a line break.

    ``strong`` holds the positions of rows that sum up others.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: frozenset[int] = frozenset()
    note: str = ""


def diff_table(diff: KnowledgeDiff) -> Table:
    """One line a group, then one a role: counts, accuracy before and after, exact McNemar p, log-probability shift."""
    columns = (
        "group",
        "n",
        "learned",
        "kept",
        "lost",
        "missing",
        "right before (%)",
        "right after (%)",
        "p",
        "shift of ln P",
    )
    rows = [_group_cells(line) for line in diff.groups]
    pooled = [_group_cells(replace(line, name=f"{line.name}, together")) for line in diff.totals]
    strong = frozenset(range(len(rows), len(rows) + len(pooled)))
    note = (
        "Intervals: 95 %; Wilson for shares, Student's t over questions for the shift of the expected answer's "
        "log-probability (nats). p: exact McNemar test on learned against lost."
    )
    if diff.only_before or diff.only_after:
        note += (
            f" Asked of one side only, counted nowhere: {len(diff.only_before)} before, {len(diff.only_after)} after."
        )
    return Table("Facts", columns, tuple(rows + pooled), strong, note)


def text_table(diff: KnowledgeDiff) -> Table | None:
    """Running text: perplexity and loss before and after; None if none was read."""
    if not diff.texts:
        return None
    columns = ("text", "passages", "tokens", "perplexity before", "perplexity after", "shift of loss (nats a token)")
    note = "Interval: 95 %, Student's t over passages."
    if any(line.tokens_before != line.tokens_after for line in diff.texts):
        note += " The two models cut the text into different tokens, so losses a token are not comparable."
    return Table("Running text", columns, tuple(_text_cells(line) for line in diff.texts), note=note)


def comparison_table(comparison: Comparison) -> Table:
    """One line a method and setting; columns that no run fills are left out."""
    columns: dict[str, Callable[[MethodRow], str]] = {
        "method": lambda row: row.label + (" ◆" if row.front else ""),
        "seeds": lambda row: str(len(row.seeds)),
        "learned (%)": lambda row: _cell(row.learned, scale=100, most=1),
        "unseen wording (%)": lambda row: _cell(row.unseen, scale=100, most=1),
        "kept (%)": lambda row: _cell(row.kept, scale=100, most=1),
        "kept, calibrated (%)": lambda row: _cell(row.calibrated, scale=100, most=1),
        "keep right after (%)": lambda row: _cell(row.keep_accuracy, scale=100, most=1),
        "text loss shift": lambda row: _cell(row.text_shift, signed=True, most=4),
    }
    for name, (heading, unit) in COSTS.items():
        columns[heading] = lambda row, name=name, unit=unit: _cost(row.costs.get(name), unit)
    filled = {name: cells for name, cell in columns.items() if any(cells := [cell(row) for row in comparison.rows])}
    note = (
        "◆ no other row both learned and kept at least as much. Learned: of the taught facts that were wrong before, "
        "the share now right. Kept: of the held-out known facts that were right before, the share still right. "
        "Text loss shift in nats a token. Intervals: 95 %, Student's t over seeds (Wilson where all seeds agree)"
    )
    if any(row.interval == "questions" for row in comparison.rows):
        note += "; for one seed over its questions (Wilson) and passages (Student's t)"
    return Table("Methods", tuple(filled), tuple(zip(*filled.values(), strict=True)), note=note + ".")


def cost_lines(cost: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The known costs of a run, each with its heading and unit."""
    return [
        (heading, quantity(float(cost[name]), unit))
        for name, (heading, unit) in COSTS.items()
        if isinstance(cost.get(name), (int, float))
    ]


def p_text(p: float) -> str:
    """A p-value as papers print it.

    >>> p_text(0.0213), p_text(2e-9), p_text(1.0)
    ('0.021', '< 0.001', '1')
    """
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def _group_cells(line: GroupDiff) -> tuple[str, ...]:
    counts = (str(value) for value in (line.n, line.learned, line.kept, line.lost, line.missing))
    shares = (_cell(share, scale=100, most=1) for share in (line.before, line.after))
    return (line.name, *counts, *shares, p_text(line.p_value), _cell(line.logprob_shift, signed=True, most=3))


def _text_cells(line: TextDiff) -> tuple[str, ...]:
    perplexities = (f"{line.perplexity_before:#.3g}", f"{line.perplexity_after:#.3g}")
    return (
        line.group,
        str(line.n),
        str(line.tokens_before),
        *perplexities,
        _cell(line.loss_shift, signed=True, most=4),
    )


def _cell(estimate: Estimate | Proportion | None, *, scale: float = 1.0, signed: bool = False, most: int = 6) -> str:
    if estimate is None:
        return ""
    value = shown(estimate, scale=scale, signed=signed, most=most)
    interval = shown_interval(estimate, scale=scale, signed=signed, most=most)
    return f"{value}\n{interval}" if interval else value


def _cost(estimate: Estimate | None, unit: str) -> str:
    if estimate is None:
        return ""
    if estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return quantity(estimate.value, unit)
    return (
        f"{quantity(estimate.value, unit)}\n{quantity(max(0.0, estimate.low), unit)} to {quantity(estimate.high, unit)}"
    )
