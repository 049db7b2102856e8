"""``keeps diff``: what one change, or one model against another, learned, kept and lost."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from keeps.cli import options
from keeps.cli.terminal import terminal
from keeps.errors import SettingsError

EXAMPLES = (
    "keeps diff RUN",
    "keeps diff RUN --items",
    "keeps diff RUN --router",
    "keeps diff smollm2-135m ./my-model --probe world:capital",
    "keeps diff RUN_A RUN_B --json",
)


def command(
    first: Annotated[str, typer.Argument(help="A run, a model or a change; alone, a run is compared with its base.")],
    second: Annotated[str | None, typer.Argument(help="What to compare it with.")] = None,
    *,
    probe: options.Probe = None,
    items: options.Items = False,
    router: Annotated[
        bool, typer.Option("--router", help="Show which data went to which expert, for a run that has experts.")
    ] = False,
    device: options.Device = None,
    workspace: options.Workspace = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show what was learned, kept and lost between two models, question by question."""
    del debug
    from keeps import jobs
    from keeps.cli.show import show_diff, show_table
    from keeps.ledger.router import router_table

    if router and (second is not None or probe is not None):
        mend = "name one run alone"
        raise SettingsError("--router shows what a run measured on itself", where="keeps diff", mend=mend)
    with terminal(json=json, quiet=quiet) as out:
        found = jobs.diff(first, second, probe=probe, workspace=workspace, device=device, progress=out.progress)
        table = router_table(found.cost, found.after_name) if router else None

        def show(console: Any) -> None:
            show_diff(console, found, items=items)
            if table is not None:
                show_table(console, table)

        out.emit(found, show)
