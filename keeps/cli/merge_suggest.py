"""``keeps merge suggest``: try ways to merge under a budget, and say which one loses least of every parent."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import typer

from keeps.cli import options
from keeps.cli.terminal import line, terminal
from keeps.errors import SettingsError

WORD = "suggest"

Models = Annotated[
    list[str], typer.Argument(help="The word suggest, then models as for a merge; NAME=MODEL names one.")
]
Base = Annotated[str | None, typer.Option("--base", help="The model that all of them were trained from.")]
Probes = Annotated[
    list[str] | None,
    typer.Option(
        "--probe",
        metavar="NAME=FILE",
        help="Questions that a model was made to answer (a file, or world:RELATION); once for each model, by its name.",
    ),
]
Texts = Annotated[
    list[str] | None,
    typer.Option("--texts", metavar="NAME=FILE", help="Texts of each task: regmean and fisher are tried too then."),
]
Trials = Annotated[int, typer.Option("--trials", min=1, help="Most merges that are made and asked.")]
Minutes = Annotated[float | None, typer.Option("--minutes", help="Begin no merge that would probably end later.")]


def command(
    models: Models,
    *,
    base: Base = None,
    probe: Probes = None,
    texts: Texts = None,
    trials: Trials = 12,
    minutes: Minutes = None,
    out: options.Out = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Try methods and weights on models of one base, and show what each parent keeps of its own with each of them.

    Every merge is asked the parents' own questions and thrown away again. What is chosen is asked once more, about
    subjects that it was not chosen by. --out gets the figures and a picture of the front.
    """
    del debug  # read from the command line before anything else
    if base is None:
        raise SettingsError("no base is named", where="keeps merge suggest", mend="name it with --base")
    from keeps.jobs.merging_learned import named_texts
    from keeps.jobs.suggesting import suggest

    with terminal(json=json, quiet=quiet) as term:
        found = suggest(
            [word for word in models if word != WORD],
            base,
            probes=named_texts(probe or ()),
            texts=named_texts(texts or ()) or None,
            trials=trials,
            minutes=minutes,
            out=out,
            seed=seed,
            device=device,
            workspace=workspace,
            progress=term.progress,
        )
        term.emit({"suggestion": found, "command": said(found)}, lambda console: _show(console, found, out))


def said(found: Any) -> str:
    """What to type to make the best one."""
    return shlex.join(["keeps", "merge", *found.words, "--out", "./merged"])


def _show(console: Any, found: Any, out: Any) -> None:
    from rich.table import Table

    names = list(found.parents)
    table = Table(
        box=None, header_style="bold", pad_edge=False, caption="100: as many of its own questions as the parent"
    )
    for heading in ("merge", *names, "mean", "worst", "seconds"):
        table.add_column(heading, justify="left" if heading == "merge" else "right")
    for trial in sorted(found.trials, key=lambda trial: (-trial.mean, -trial.worst)):
        scores = [f"{trial.scores[name]:.0f}" for name in names]
        mark = " ◆" if trial.front else ""
        cells = (trial.label + mark, *scores, f"{trial.mean:.0f}", f"{trial.worst:.0f}", f"{trial.seconds:.1f}")
        table.add_row(*cells, style="bold" if trial == found.best else None)
    console.print(table)
    line(console, "◆ no other is as good on every parent and better on one")
    if found.held_out:
        scores = ", ".join(f"{name} {value:.0f}" for name, value in found.held_out.items())
        line(console, f"the best on held-out subjects: {scores}")
    else:
        line(console, "too few questions to hold some out: the best is the luckiest, too; ask it others")
    if out is not None:
        line(console, f"figures and picture: {out}")
    line(console, said(found))
