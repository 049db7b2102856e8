"""``keeps export``: write a run's change in another form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keeps.cli import options
from keeps.cli.terminal import terminal

EXAMPLES = ("keeps export RUN --form merged --out ./merged-model", "keeps export RUN --form residual --out ./adapter")


def command(
    run: Annotated[str, typer.Argument(help="The run whose change is written.")],
    *,
    form: Annotated[
        str, typer.Option("--form", help="lora (rank 2r on the untouched base), residual or merged.")
    ] = "merged",
    out: Annotated[Path, typer.Option("--out", help="The folder to write; it must not exist yet.")],
    device: options.Device = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write a change as a folder that transformers and peft load; prints the largest logit difference."""
    del debug
    from keeps import jobs

    with terminal(json=json, quiet=quiet) as term:
        difference = jobs.export(run, form, out, workspace=workspace, device=device, progress=term.progress)
        document = {"run": run, "form": form, "folder": out, "largest_logit_difference": difference}
        text = f"{out}: form {form}, largest logit difference to the trained model {difference:.2g}"
        term.emit(document, lambda console: console.print(text, markup=False, soft_wrap=True))
