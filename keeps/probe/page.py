"""The page of a probe: a Markdown model card with its tables and picture, and the figures and rows beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from keeps.ledger.figures import save_figure
from keeps.ledger.tables import Table
from keeps.probe.base import Findings, ModelRows, ProbingSystem
from keeps.weights.files import atomic_folder

PAGE, PICTURE, MEASURES, ROWS = "README.md", "picture.png", "measures.jsonl", "rows.jsonl"


def write_page(
    folder: str | Path, system: ProbingSystem, asked: Sequence[ModelRows], findings: Findings, *, seed: int = 0
) -> list[Path]:
    """Write page, picture, measures and rows to ``folder``, all of it or nothing; returns the files.

    Raises:
        StorageError: the folder is there already, or cannot be written.
    """
    final = Path(folder)
    with atomic_folder(final) as temporary:
        figure = system.draw(asked, seed=seed)
        if figure is not None:
            save_figure(figure, temporary / PICTURE)
        page = page_text(system, asked, findings, seed=seed, picture=figure is not None)
        (temporary / PAGE).write_text(page, encoding="utf-8")
        _write_lines(temporary / MEASURES, (asdict(measure) for measure in findings.measures))
        rows = ({"model": model.name, **asdict(row)} for model in asked for row in model.rows)
        _write_lines(temporary / ROWS, rows)
        system.write(temporary, asked, seed=seed)
        names = sorted(path.name for path in temporary.iterdir())
    return [final / name for name in names]


def page_text(
    system: ProbingSystem, asked: Sequence[ModelRows], findings: Findings, *, seed: int, picture: bool
) -> str:
    """The page in Markdown."""
    info = system.info
    settings = ", ".join(f"{key} {value}" for key, value in asdict(system.settings).items()) or "none"
    models = ", ".join(f"`{_cell(model.name)}`" for model in asked)
    parts = [
        f"# {info.name}: {models}",
        info.summary,
        f"Source: {info.paper}. Settings: {settings}. Seed: {seed}. "
        f"Questions a model: {max(len(model.rows) for model in asked)}.",
    ]
    if picture:
        parts.append(f"![{info.name}]({PICTURE})")
    parts += [markdown_table(table) for table in findings.tables]
    parts.append(f"Every figure with its interval is in `{MEASURES}`, every question with its answer in `{ROWS}`.")
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """A table of the ledger in Markdown; the interval of a figure stands behind it in brackets."""
    lines = [f"## {table.title}", "", _line(table.columns), _line(["---"] * len(table.columns))]
    for position, row in enumerate(table.rows):
        cells = [_cell(value) for value in row]
        lines.append(_line([f"**{cell}**" if position in table.strong and cell else cell for cell in cells]))
    return "\n".join([*lines, *(["", table.note] if table.note else [])])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """Text from models and data is data: nothing in it may end a cell or become a tag."""
    figure, below, interval = text.partition("\n")
    joined = f"{figure} ({interval})" if below else figure
    return " ".join(joined.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _write_lines(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for entry in entries:
            stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
