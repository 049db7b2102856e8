"""``keeps probe``: ask models what they know, store every answer, and measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from keeps.cli import options
from keeps.cli.generated import with_settings
from keeps.cli.terminal import terminal
from keeps.models.embedded import DEFAULT_MODEL
from keeps.registry import find_method

DEFAULT_SYSTEM = "facts"
EXAMPLES = (
    "keeps probe",
    "keeps probe --model ./my-model --data world:capital,world:symbol --shots 4",
    "keeps probe kgquiz --data triples.tsv --limit 300 --out ./quiz",
    "keeps probe causal_tracing --limit 20 --out ./tracing",
    "keeps probe --model smollm2-135m --model corda-3f --data questions.jsonl",
    "keeps probe kgquiz --help-all",
    "keeps probe --model openai:http://localhost:8000/v1#MODEL --data world:capital",
)

System = Annotated[str, typer.Argument(metavar="SYSTEM", help="What to ask; keeps methods --verb probe lists all.")]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="Model, run, folder of a run or openai:URL#MODEL; repeat it, and the others are compared with the first.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option("--data", "--probe", help="world, world:RELATION, text or a file; several by commas."),
]
Limit = Annotated[int | None, typer.Option("--limit", help="Most questions, shared out over the groups.")]
Out = Annotated[str | None, typer.Option("--out", help="New folder for page, picture, measures and rows.")]


def command(
    system: System = DEFAULT_SYSTEM,
    *,
    model: Models = None,
    data: Data = None,
    limit: Limit = None,
    seed: options.Seed = 0,
    out: Out = None,
    workspace: options.Workspace = None,
    device: options.Device = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    help_all: options.HelpAll = False,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Ask one model or several what they know; each answer is stored in the ledger.

    Without options: asks the default model the whole built-in world. The settings of each system are options
    too: keeps probe SYSTEM --help lists them. A probe that was interrupted goes on when it is repeated.
    """
    del debug, help_all  # read from the command line before anything else
    from keeps import jobs
    from keeps.cli.show import show_findings

    with terminal(json=json, quiet=quiet) as term:
        found = jobs.probe(
            model or [DEFAULT_MODEL],
            data,
            system=system,
            settings=settings,
            limit=limit,
            seed=seed,
            out=out,
            workspace=workspace,
            device=device,
            progress=term.progress,
        )
        document = {
            "system": found.system,
            "models": [
                {"model": result.name, "result": result.result_id, "reused": result.reused, "rows": result.rows}
                for result in found.results
            ],
            "measures": found.findings.measures,
            "files": [str(path) for path in found.files],
        }
        term.emit(document, lambda console: show_findings(console, found.findings, found.files))


def build(argv: Sequence[str]) -> Callable[..., Any]:
    """The command with the options of the system that follows ``probe`` in ``argv``."""
    words = list(argv[list(argv).index("probe") + 1 :])
    name = words[0] if words and not words[0].startswith("-") else DEFAULT_SYSTEM
    return with_settings(command, find_method(name, "probe"), everything="--help-all" in argv)
