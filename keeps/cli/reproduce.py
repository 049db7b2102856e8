"""``keeps reproduce``: run a claim and say whether it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keeps.cli import options
from keeps.cli.terminal import plain, terminal

EXAMPLES = (
    "keeps reproduce corda",
    "keeps reproduce corda --size full --out ./evidence --json",
    "keeps reproduce ksl --data ./benchmarks --out ./evidence",
)

Card = Annotated[str, typer.Argument(help="The claim's name; keeps methods --json shows each method's card.")]
Size = Annotated[str, typer.Option("--size", help="default: minutes on two CPU cores; full: for a GPU.")]
Data = Annotated[Path | None, typer.Option("--data", help="Benchmark files, for the claim on published data.")]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder for the evidence: CARD.json, or CARD_data.json of --data.")
]


def command(
    card: Card,
    *,
    size: Size = "default",
    data: Data = None,
    out: Out = None,
    device: options.Device = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Run the experiment behind a method and compare each figure with its threshold."""
    del debug
    from keeps.claims import reproduce
    from keeps.cli.methods import show_checks

    with terminal(json=json, quiet=quiet) as term:
        found = reproduce(
            card, size=size, data=data, device=device, workspace=workspace, out=out, progress=term.progress
        )
        term.emit(found, lambda console: show_checks(console, plain(found)))
