"""``keeps compare``: the same job with several methods and seeds, in one table, picture and page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from keeps.cli import options
from keeps.cli.generated import command_text, parse_assignments
from keeps.cli.terminal import terminal

DEFAULT_METHODS = "full,lora,corda"
EXAMPLES = (
    "keeps compare --methods full,lora,corda --seeds 3",
    "keeps compare --methods lora,corda --learn new.jsonl --keep known.csv --out ./comparison",
    "keeps compare --methods corda:mode=kpm,corda:mode=ipm --set rank=8",
    "keeps compare --methods full,lora,corda --seeds 5 --engine ray --workers 4",
)

Methods = Annotated[
    str, typer.Option("--methods", help="Names separated by commas, with own settings as corda:mode=ipm.")
]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Runs a method, each with its own seed.")]

Engine = Annotated[
    str, typer.Option("--engine", help="local: one run after another; ray: several side by side on a Ray cluster.")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Runs at a time with --engine ray; by default one a card, else one a core."),
]


def command(
    *,
    methods: Methods = DEFAULT_METHODS,
    seeds: Seeds = 3,
    learn: options.Learn = None,
    keep: options.Keep = None,
    model: options.Model = options.DEFAULT_MODEL,
    assignments: options.Assignments = None,
    device: options.Device = None,
    workspace: options.Workspace = None,
    out: options.Out = None,
    engine: Engine = "local",
    workers: Workers = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Run the same job with several methods and show what each learned and kept.

    Runs that are in the ledger already are not repeated. --set applies to every method that has the
    setting; --out names the folder for table, picture and report.
    """
    del debug
    common = {**(settings or {}), **parse_assignments(assignments)}
    from keeps import jobs
    from keeps.cli.show import show_comparison

    data: dict[str, Any] = {key: value for key, value in (("learn", learn), ("keep", keep)) if value is not None}
    decides = {"methods": methods, "seeds": seeds, "learn": learn, "keep": keep, "model": model, "out": out}
    words = [f"{key}={value}" for key, value in common.items()]
    with terminal(json=json, quiet=quiet) as term:
        found = jobs.compare(
            methods,
            **data,
            seeds=seeds,
            model=model,
            settings=common,
            device=device,
            workspace=workspace,
            out=out,
            engine=engine,
            workers=workers,
            command=command_text("compare", decides, repeated={"set": words}),
            progress=term.progress,
        )
        term.emit(found, lambda console: show_comparison(console, found, out))
