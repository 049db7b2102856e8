"""Knowledge diffs, comparisons and probe results as text: the lines first, as ``git diff --stat`` does.

The tables themselves come from the ledger, which cuts every figure to what its interval allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from keeps.cli.terminal import line

if TYPE_CHECKING:
    from keeps.ledger import Comparison, KnowledgeDiff
    from keeps.ledger.tables import Table as Cells
    from keeps.probe.base import Findings

COLOURS = {"learned": "green", "lost": "red", "missing": "yellow"}
SIGNS = {"learned": "+", "lost": "-"}


def show_diff(console: Console, diff: KnowledgeDiff, *, items: bool = False) -> None:
    """One line a group, pooled lines, running text, cost; with ``items`` the facts that flipped."""
    from keeps.ledger.tables import cost_lines, diff_table, text_table

    line(console, f"knowledge diff: {diff.before_name} -> {diff.after_name}", style="bold")
    for cells in (diff_table(diff) if diff.groups else None, text_table(diff)):
        if cells is not None:
            show_table(console, cells)
    cost = cost_lines(diff.cost)
    if cost:
        line(console, "cost: " + ", ".join(f"{heading} {value}" for heading, value in cost))
    if items:
        show_items(console, diff)


def show_comparison(console: Console, found: Comparison, out: Path | None = None) -> None:
    """One line a method: learned against kept, the text loss, the cost."""
    from keeps.ledger.tables import comparison_table

    line(console, f"{found.model}: learn {found.learn}; keep {found.keep}", style="bold")
    show_table(console, comparison_table(found))
    if out is not None:
        line(console, f"table, picture and report: {out}")


def show_items(console: Console, diff: KnowledgeDiff) -> None:
    """Each fact learned or lost: the question, what is right, and both answers."""
    for outcome in ("lost", "learned"):
        found = diff.select(outcome)
        line(console, f"\n{len(found)} {outcome}", style="bold")
        for item in found:
            question = f"{SIGNS[outcome]} {item.group}: {one_line(item.prompt)} ... {one_line(item.expected)}"
            line(console, question, style=COLOURS[outcome])
            line(console, f'    before "{one_line(item.before)}", after "{one_line(item.after)}"')


def show_findings(console: Console, findings: Findings, files: Sequence[Path] = ()) -> None:
    """The tables of a probe, and where its page is."""
    for table in findings.tables:
        show_table(console, table)
    if files:
        line(console, "written: " + ", ".join(map(str, files)))


def show_table(console: Console, cells: Cells) -> None:
    """A table of the ledger; the interval below a figure moves behind it, so that a row is one line."""
    table = Table(box=None, header_style="bold", pad_edge=False, title=cells.title, title_justify="left")
    for position, name in enumerate(cells.columns):
        table.add_column(name, justify="left" if position == 0 else "right")
    for position, row in enumerate(cells.rows):
        styled = [_cell(name, value) for name, value in zip(cells.columns, row, strict=True)]
        table.add_row(*styled, style="bold" if position in cells.strong else None)
    console.print(table)
    if cells.note:
        console.print(cells.note, style="dim", markup=False, highlight=False)


def one_line(text: str) -> str:
    """A text on one line, so that a model's line breaks do not tear the list.

    >>> one_line(" Oslo\\nNorway ")
    'Oslo Norway'
    """
    return " ".join(text.split())


def _cell(column: str, value: str) -> Text:
    figure, below, interval = value.partition("\n")
    text = Text(figure, style=COLOURS.get(column, "") if figure != "0" else "dim")
    return text.append(f" ({interval})", style="dim") if below else text
