"""``keeps tasks``: write questions as tasks of the EleutherAI evaluation harness."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from keeps.cli import options
from keeps.cli.terminal import terminal

EXAMPLES = (
    "keeps tasks --data world:capital,world:symbol --out ./tasks",
    "keeps tasks --data questions.jsonl --shots 4 --prefix mine --out ./tasks",
)


def command(
    *,
    data: Annotated[str, typer.Option("--data", help="world, world:RELATION or a file; several by commas.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write; it must not exist yet.")],
    prefix: Annotated[str, typer.Option("--prefix", help="What the names of the tasks begin with.")] = "keeps",
    shots: Annotated[int, typer.Option("--shots", min=0, help="Solved questions of the group before each one.")] = 0,
    limit: Annotated[int | None, typer.Option("--limit", help="Most questions, shared out over the groups.")] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write questions as a folder of tasks that lm_eval --include_path loads: one task a group of questions."""
    del debug
    from keeps.probe.harness_export import write_tasks

    with terminal(json=json, quiet=True) as term:
        found = write_tasks(data, out, prefix=prefix, shots=shots, limit=limit, seed=seed)
        words = ["lm_eval", "--include_path", str(out), "--tasks", ",".join(found)]
        document: dict[str, Any] = {"folder": out, "tasks": found, "command": shlex.join(words)}

        def show(console: Console) -> None:
            for name, count in found.items():
                console.print(f"{name}: {count} documents", markup=False, highlight=False)
            console.print(shlex.join(words), markup=False, highlight=False, soft_wrap=True)

        term.emit(document, show)
