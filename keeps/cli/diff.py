"""``keeps diff``: what one change, or one model against another, learned, kept and lost."""

from __future__ import annotations

from typing import Annotated

import typer

from keeps.cli import options
from keeps.cli.terminal import terminal

EXAMPLES = (
    "keeps diff RUN",
    "keeps diff RUN --items",
    "keeps diff smollm2-135m ./my-model --probe world:capital",
    "keeps diff RUN_A RUN_B --json",
)


def command(
    first: Annotated[str, typer.Argument(help="A run, a model or a change; alone, a run is compared with its base.")],
    second: Annotated[str | None, typer.Argument(help="What to compare it with.")] = None,
    *,
    probe: options.Probe = None,
    items: options.Items = False,
    device: options.Device = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show what was learned, kept and lost between two models, question by question."""
    del debug
    from keeps import jobs
    from keeps.cli.show import show_diff

    with terminal(json=json, quiet=quiet) as out:
        found = jobs.diff(first, second, probe=probe, workspace=workspace, device=device, progress=out.progress)
        out.emit(found, lambda console: show_diff(console, found, items=items))
