"""``keeps runs``: what lies in the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from keeps.cli import options
from keeps.cli.terminal import terminal

if TYPE_CHECKING:
    from keeps.ledger.records import RunRecord

EXAMPLES = ("keeps runs", "keeps runs --workspace ./keeps-runs --json")


def command(
    *,
    workspace: options.Workspace = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """List the runs of a workspace: method, model, data, seed, status, time."""
    del debug
    from keeps.ledger.workspace import Workspace

    place = Workspace(workspace)
    found: list[RunRecord] = []
    if place.database.exists():
        with place.ledger(read_only=True) as ledger:
            found = ledger.runs()
    with terminal(json=json, quiet=quiet) as out:
        out.emit(found, lambda console: _show(console, found, str(place.path)))


def _show(console: Console, runs: Sequence[RunRecord], place: str) -> None:
    if not runs:
        console.print(f"no runs in {place} yet: keeps adapt makes the first one", markup=False, soft_wrap=True)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("run", "method", "model", "learn", "keep", "seed", "status", "seconds", "created"):
        table.add_column(name, justify="right" if name in ("seed", "seconds") else "left", overflow="fold")
    for run in runs:
        seconds = run.measures.get("train_seconds")
        cells = (run.id, run.method, run.model, run.learn, run.keep, str(run.seed), run.status)
        table.add_row(*cells, "" if seconds is None else f"{seconds:.0f}", run.created[:16].replace("T", " "))
    console.print(table)
