"""Tables of what a claim measured, for pages that say which method to take: made from the evidence, never typed.

A page holds a line ``<!-- measured: CARD -->``, which the site replaces by the table of that card.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keeps.cli.evidence import read_evidence

PLACE = re.compile(r"<!-- measured: (\w+) -->")


@dataclass(frozen=True)
class Column:
    """One measure: its key in the evidence, its heading, how it is written (``share``, ``number`` or ``seconds``)."""

    key: str
    heading: str
    kind: str = "share"


@dataclass(frozen=True)
class Layout:
    """Which table of the evidence is shown, how its rows are called, and what its columns are."""

    table: str
    rows: str
    columns: tuple[Column, ...]
    note: str


EDITING = (
    Column("edits", "Edits", "count"),
    Column("success", "Success (%)"),
    Column("rephrase", "Other wordings (%)"),
    Column("portability", "Consequences (%)"),
    Column("locality", "Locality (%)"),
    Column("fluency", "Fluency", "number"),
    Column("seconds", "Seconds an edit", "seconds"),
)
LAYOUTS: Mapping[str, Layout] = {
    "knowedit": Layout(
        "methods",
        "Method",
        EDITING,
        "Every edit alone on the untouched model, except by methods that learn from a batch (`mend`, `serac`, `wise`); "
        "`kn` with `--scale search`. Intervals: 95 %. Seconds are wall-clock times on two busy cores.",
    ),
    "augment_survey": Layout(
        "methods",
        "Method",
        (
            Column("questions", "Questions", "count"),
            Column("right", "Right (%)"),
            Column("passage found", "Passage found (%)"),
            Column("cites", "Cites it (%)"),
            Column("seconds", "Seconds", "number"),
        ),
        "Facts that the default model does not know; three passages a question.",
    ),
    "cook": Layout(
        "share answered",
        "Facts of",
        (
            Column("mascots", "Mascots (%)"),
            Column("trades", "Trades (%)"),
            Column("mines", "Mines (%)"),
        ),
        "Invented facts, 40 of each domain, chosen among four candidates (chance: 25 %); a card of each domain.",
    ),
    "ck_plug": Layout(
        "false contexts",
        "Decoding",
        (
            Column("ConR", "Context's answer (%)"),
            Column("ParR", "Original answer (%)"),
            Column("MR", "Memory ratio (%)"),
        ),
        "24 capitals behind a false context, five tokens, greedy.",
    ),
    "augment_survey_data": Layout(
        "PopQA by popularity",
        "Subjects",
        (
            Column("questions", "Questions", "count"),
            Column("closed book", "Right alone (%)"),
            Column("rag", "Right with passages (%)"),
            Column("gained", "Gained", "count"),
            Column("lost", "Lost", "count"),
        ),
        "PopQA, two passages a question; thirds by popularity within each kind of question.",
    ),
    "ck_plug_data": Layout(
        "changed passages, chosen answers",
        "Decoding",
        (
            Column("ConR", "Passage's answer (%)"),
            Column("ParR", "True answer (%)"),
        ),
        "50 questions of SQuAD behind passages with another answer, chosen where the two answers part.",
    ),
    "knowedit_data": Layout(
        "CounterFact",
        "Method",
        EDITING,
        "Edits of CounterFact with default settings, every edit alone on the untouched model. Intervals: 95 %.",
    ),
    "unlearning_data": Layout(
        "TOFU",
        "Model",
        (
            Column("forget quality", "Forget quality (p)", "number"),
            Column("model utility", "Model utility", "number"),
            Column("forget ROUGE-L", "Forget set, ROUGE-L", "number"),
            Column("retain ROUGE-L", "Retain set, ROUGE-L", "number"),
            Column("seconds", "Seconds", "seconds"),
        ),
        "Invented authors of TOFU, taught to the default model first. `retrained` learned the retain set alone: the "
        "goal. None was tuned.",
    ),
    "ksl_data": Layout(
        "two hops",
        "Way",
        (
            Column("right", "Right (%)"),
            Column("supported", "With a path (%)"),
        ),
        "120 questions for the kind of the kind of a thing, four choices that are all two edges away in WN18RR.",
    ),
    "unlearning": Layout(
        "methods",
        "Model",
        (
            Column("forget memorised", "Forget set memorised (%)"),
            Column("forget memorised, other wording", "in another wording (%)"),
            Column("retain memorised", "Retain set memorised (%)"),
            Column("min-k area", "Membership (50 is ideal)"),
            Column("text loss shift", "Text loss (nats a token)", "number"),
            Column("seconds", "Seconds", "seconds"),
        ),
        "`before` knows both sets, `retrained` never saw the forget set: the goal. Membership: area under the curve of "
        "Min-K %, in percent. Every method has the same number of steps; none was tuned.",
    ),
}


def with_measured(markdown: str) -> str:
    """``markdown`` with each place for a table filled."""
    return PLACE.sub(lambda match: measured_table(match.group(1)), markdown)


def measured_table(card: str) -> str:
    """The table of ``card``, or how to measure it.

    Raises:
        KeyError: no layout is written down for this card.
    """
    layout = LAYOUTS[card]
    found = read_evidence(card)
    rows = (found or {}).get("tables", {}).get(layout.table)
    if not found or not rows:
        return f"Not measured yet: `keeps reproduce {card}`."
    columns = [column for column in layout.columns if any(row.get(column.key) is not None for row in rows.values())]
    headings = [layout.rows, *(column.heading for column in columns)]
    lines = [f"| {' | '.join(headings)} |", f"|{' --- |' * len(headings)}"]
    for name, row in rows.items():
        cells = [f"`{name}`", *(written(row.get(column.key), column.kind) for column in columns)]
        lines.append(f"| {' | '.join(cells)} |")
    seeds = ", ".join(str(seed) for seed in found.get("seeds", ()))
    lines += ["", f"{layout.note} Seeds: {seeds}. `{found.get('command', f'keeps reproduce {card}')}`."]
    return "\n".join(lines)


def written(value: Any, kind: str) -> str:
    """A figure as it stands in a cell; with an interval, no more digits than that allows.

    >>> written({"value": 0.95, "low": 0.76, "high": 0.99}, "share"), written(0.588, "share"), written(None, "share")
    ('95 (76 to 99)', '59', '')
    """
    if value is None:
        return ""
    scale, digits = (100, 0) if kind == "share" else (1, 0 if kind in ("count", "seconds") else 2)
    if not isinstance(value, Mapping):
        return f"{scale * value:.{digits}f}"
    low, high = value.get("low"), value.get("high")
    text = f"{scale * value['value']:.{digits}f}"
    return text if low is None or high is None else f"{text} ({scale * low:.{digits}f} to {scale * high:.{digits}f})"
