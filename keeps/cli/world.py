"""``keeps world``: what the built-in world holds, and which of it a model knows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from keeps.cli import options
from keeps.cli.terminal import terminal
from keeps.contracts import Progress, Run
from keeps.errors import SettingsError
from keeps.models.embedded import DEFAULT_MODEL

MARKS = ("known", "uncertain", "unknown")
EXAMPLES = ("keeps world", "keeps world --json", "keeps world --mark --model ./my-model --out marks.json")


def command(
    *,
    mark: Annotated[
        bool, typer.Option("--mark", help="Measure which facts --model knows, by the rule of the docs.")
    ] = False,
    model: options.Model = DEFAULT_MODEL,
    device: options.Device = None,
    out: options.Out = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Count the facts of the built-in world by relation and by how well the default model knows them."""
    del debug
    if out is not None and not mark:
        raise SettingsError(
            "--out writes the marks of --mark", where="keeps world", mend="add --mark or leave --out away"
        )
    from keeps.data.world import world_facts

    with terminal(json=json, quiet=quiet) as term:
        marks = _measured(model, device, out, term.progress) if mark else None
        facts = world_facts(marks=marks)
        rows = counts(facts)
        document: dict[str, Any] = {"facts": len(facts), "relations": rows}
        if marks is not None:
            document |= {"model": model, "marks": marks}
        term.emit(document, lambda console: _show(console, rows, model if mark else DEFAULT_MODEL))


def counts(facts: Any) -> list[dict[str, Any]]:
    """Facts by relation, in the order of the world, with the number of each mark."""
    by_relation: dict[str, Counter[str]] = {}
    for fact in facts:
        by_relation.setdefault(fact.relation, Counter())[fact.mark] += 1
    return [
        {"relation": relation, "facts": found.total(), **{name: found[name] for name in MARKS}}
        for relation, found in by_relation.items()
    ]


def _measured(model: str, device: str | None, out: Path | None, progress: Progress) -> dict[str, str]:
    from keeps.data.world.marks import write_marks
    from keeps.models import LanguageModel
    from keeps.probe.marks import mark_world

    loaded = LanguageModel.load(model, device=device or "cpu", progress=progress)
    marks = mark_world(loaded, run=Run(Path(), progress=progress))
    if out is not None:
        write_marks(out, marks, model=loaded.name, fingerprint=loaded.fingerprint)
    return marks


def _show(console: Console, rows: list[dict[str, Any]], model: str) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("relation", "facts", *MARKS):
        table.add_column(name, justify="left" if name == "relation" else "right")
    for row in rows:
        table.add_row(*(str(row[name]) for name in ("relation", "facts", *MARKS)))
    table.add_section()
    table.add_row("all", *(str(sum(row[name] for row in rows)) for name in ("facts", *MARKS)), style="bold")
    console.print(table)
    console.print(f"known, uncertain and unknown to {model}", style="dim", markup=False)
