"""Report pages: one HTML file with everything in it, that fetches nothing and runs nothing but its own script.

Text from models and data is data: Jinja2 escapes it, also inside the embedded JSON, and the page's
content security policy lets no other script run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeps.errors import LedgerError
from keeps.ledger.comparison import ComparedRun, Comparison, compare_stored
from keeps.ledger.figures import inline_svg
from keeps.ledger.lines import OUTCOMES, KnowledgeDiff
from keeps.ledger.plots import draw_comparison, draw_curves, draw_diff
from keeps.ledger.records import RunRecord
from keeps.ledger.tables import Table, comparison_table, cost_lines, diff_table, text_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from keeps.ledger.store import Ledger, Point

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Picture:
    """A drawn figure as SVG, with the heading above it."""

    heading: str
    svg: str


def report_diff(
    diff: KnowledgeDiff, *, run: RunRecord | None = None, curves: Sequence[Point] = (), title: str = ""
) -> str:
    """The page of one diff: tables, pictures, every item, and, with ``run``, how to repeat it."""
    pictures = _pictures(("Outcomes by group", lambda: draw_diff(diff, title="")))
    if curves:
        pictures += _pictures(("Training", lambda: draw_curves([(run.method if run else "run", curves)])))
    tables = [table for table in (diff_table(diff), text_table(diff)) if table]
    heading = title or f"{diff.before_name} → {diff.after_name}"
    labels = [f"{run.method}, seed {run.seed}" if run else diff.after_name]
    facts = [*([("model", run.model), ("learn", run.learn), ("keep", run.keep)] if run else []), *cost_lines(diff.cost)]
    return _render(heading, facts, tables, pictures, _items([diff], labels), [run] if run else [])


def report_comparison(
    comparison: Comparison,
    entries: Sequence[ComparedRun],
    curves: Mapping[str, Sequence[Point]] | None = None,
    *,
    title: str = "",
) -> str:
    """The page of a comparison: table, learned against kept, training curves, every flipped fact, the runs.

    ``curves`` maps run ids to their points.
    """
    label_of = {run_id: row.label for row in comparison.rows for run_id in row.runs}
    pictures = _pictures(("Learned against kept", lambda: draw_comparison(comparison, title="")))
    lines = [(label_of[entry.run.id], curves[entry.run.id]) for entry in entries if curves and curves.get(entry.run.id)]
    if lines:
        pictures += _pictures(("Training", lambda: draw_curves(lines)))
    labels = [f"{label_of[entry.run.id]}, seed {entry.run.seed}" for entry in entries]
    facts = [("model", comparison.model), ("learn", comparison.learn), ("keep", comparison.keep)]
    items = _items([entry.diff for entry in entries], labels)
    runs = [entry.run for entry in entries]
    return _render(title or "Learned and kept", facts, [comparison_table(comparison)], pictures, items, runs)


def report_runs(ledger: Ledger, run_ids: Sequence[str], *, title: str = "") -> str:
    """The page of stored runs, every figure computed from the ledger: one run's diff, or a comparison.

    Raises:
        UnknownNameError: no such run.
        LedgerError: a run has no results yet, or the runs are not of the same job.
    """
    comparison, entries = compare_stored(ledger, run_ids)
    curves = {entry.run.id: ledger.curves(entry.run.id) for entry in entries}
    if len(entries) == 1:
        run = entries[0].run
        return report_diff(entries[0].diff, run=run, curves=curves[run.id], title=title)
    return report_comparison(comparison, entries, curves, title=title)


def write_report(path: Path | str, page: str) -> Path:
    """Write a page atomically.

    Raises:
        StorageError: the folder is missing or not writable, or the disk is full.
    """
    from keeps.weights.files import atomic_write_bytes

    atomic_write_bytes(path, page.encode("utf-8", "replace"))
    return Path(path)


def _pictures(*wanted: tuple[str, Any]) -> list[Picture]:
    """Draw what can be drawn; a page about text alone has no facts to picture."""
    drawn = []
    for heading, draw in wanted:
        try:
            figure: Figure = draw()
        except LedgerError:
            continue
        drawn.append(Picture(heading, inline_svg(figure, heading)))
    return drawn


def _items(diffs: Sequence[KnowledgeDiff], labels: Sequence[str]) -> dict[str, Any]:
    """Every question once, and for each run its answer, outcome and log-probability, in compact lists."""
    first = diffs[0]
    questions = [
        [item.group, item.prompt, item.expected, item.before, _rounded(item.logprob_before)] for item in first.items
    ]
    position = {(item.group, item.id): index for index, item in enumerate(first.items)}
    runs = []
    for diff, label in zip(diffs, labels, strict=True):
        answers: list[Any] = [None] * len(questions)
        for item in diff.items:
            answers[position[item.group, item.id]] = [
                item.after,
                OUTCOMES.index(item.outcome),
                _rounded(item.logprob_after),
            ]
        runs.append({"label": label, "answers": answers})
    return {"outcomes": OUTCOMES, "questions": questions, "runs": runs}


def _rounded(value: float | None) -> float | None:
    return None if value is None or abs(value) == float("inf") else round(value, 3)


def _render(
    title: str,
    facts: Sequence[tuple[str, str]],
    tables: Sequence[Table],
    pictures: Sequence[Picture],
    items: Mapping[str, Any],
    runs: Sequence[RunRecord],
) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        title=title,
        facts=[(name, value.replace(",", ", ")) for name, value in facts if value],
        tables=tables,
        pictures=pictures,
        items=items,
        runs=runs,
        versions=_versions(runs),
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=f"sha256-{digest}",
    )


def _versions(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """Every version that was used, with all values where runs differ."""
    names = sorted({name for run in runs for name in run.versions})
    return [(name, ", ".join(sorted({run.versions[name] for run in runs if name in run.versions}))) for name in names]
