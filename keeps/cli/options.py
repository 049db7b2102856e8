"""Options that several commands share, declared once with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keeps.errors import SettingsError

Model = Annotated[
    str, typer.Option("--model", help="Model: smollm2-135m, a transformers folder, a hub id or a GGUF file.")
]
Learn = Annotated[
    str | None,
    typer.Option("--learn", help="What to teach: a file, or world:unknown:RELATION; several separated by commas."),
]
Keep = Annotated[
    str | None,
    typer.Option("--keep", help="What must not be lost: a file, or world:known:RELATION; several by commas."),
]
Probe = Annotated[str | None, typer.Option("--probe", help="Questions to ask: a file or a part of the built-in world.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of every random choice.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps; by default the fastest one.")]
Workspace = Annotated[
    Path | None, typer.Option("--workspace", help="Folder of the runs and of the ledger; by default ./keeps-runs.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the interrupted run of the same job.")]
Restart = Annotated[bool, typer.Option("--restart", help="Throw the interrupted run of the same job away.")]
Trust = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let a model from a hub run code of its own on this machine.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")]
Items = Annotated[bool, typer.Option("--items", help="List the very facts learned and lost, with both answers.")]
Out = Annotated[Path | None, typer.Option("--out", help="Where to write the result.")]
HelpAll = Annotated[bool, typer.Option("--help-all", help="Show this with the advanced settings and exit.")]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting; may be repeated.")
]


def check_together(where: str, *, form: str | None, out: Path | None, resume: bool, restart: bool) -> None:
    """Refuse options of a changing command that do nothing alone, or contradict each other."""
    if (form is None) != (out is None):
        raise SettingsError("--form and --out belong together", where=where, mend="give both, or neither")
    if resume and restart:
        raise SettingsError("--resume and --restart contradict each other", where=where, mend="choose one")
