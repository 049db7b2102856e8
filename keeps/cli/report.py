"""``keeps report``: one self-contained page from the ledger, with table, picture, curves and facts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keeps.cli import options
from keeps.cli.terminal import terminal
from keeps.errors import EmptySetError

EXAMPLES = ("keeps report", "keeps report RUN --out run.html", "keeps report RUN_A RUN_B --out comparison.html")


def command(
    runs: Annotated[list[str] | None, typer.Argument(help="Runs of one job; without any, the newest run.")] = None,
    *,
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("report.html"),
    workspace: options.Workspace = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write the report page of finished runs: nothing is run again, everything comes from the ledger."""
    del debug
    from keeps.ledger.report import report_runs, write_report
    from keeps.ledger.workspace import Workspace

    place = Workspace(workspace)
    with terminal(json=json, quiet=quiet) as term:
        with place.ledger(read_only=True) as ledger:
            names = runs or [run.id for run in ledger.runs(status="done")][-1:]
            if not names:
                raise EmptySetError("there is no finished run", where=str(place.path), mend="make one with keeps adapt")
            ids = [ledger.find_run(name).id for name in names]
            page = write_report(out, report_runs(ledger, ids))
        text = f"report of {', '.join(ids)}: {page}"
        term.emit({"runs": ids, "page": page}, lambda console: console.print(text, markup=False, soft_wrap=True))
