"""``keeps search``: find passages in an index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from keeps.cli import options
from keeps.cli.terminal import line, terminal

EXAMPLES = (
    'keeps search ./kb "Which city is the capital of Norway?"',
    'keeps search ./kb "QX-4711" --by words',
    'keeps search ./kb "rainy weather" --k 3 --where lang=en --json',
)
WAYS = {"both": (True, None), "words": (True, False), "meaning": (False, True)}


def command(
    folder: Annotated[Path, typer.Argument(help="An index that keeps index made.")],
    query: Annotated[str, typer.Argument(help="What is looked for.")],
    *,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Passages.")] = 5,
    by: Annotated[str, typer.Option("--by", help="words, meaning or both (where the index has vectors).")] = "both",
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="KEY=VALUE", help="Only documents with this value; may be repeated."),
    ] = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Pass most vectors over (extra faiss); for very large indexes.")
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Find passages by words and by meaning, each with its document and its exact place in it."""
    del debug
    from keeps.errors import SettingsError
    from keeps.jobs.indexing import search

    if by not in WAYS:
        raise SettingsError(f'"{by}" is no way to search', where="--by", mend=f"use {', '.join(WAYS)}")
    words, meaning = WAYS[by]
    with terminal(json=json, quiet=quiet) as term:
        found = search(folder, query, k=k, words=words, meaning=meaning, where=where or (), approximate=approximate)
        term.emit(found, lambda console: _show(console, found))


def _show(console: Any, found: Any) -> None:
    for number, hit in enumerate(found.hits, 1):
        ranks = ", ".join(f"{name} {rank}" for name, rank in hit.ranks.items())
        title = f"  {hit.title}" if hit.title else ""
        line(console, f"[{number}] {hit.id}{title}  (score {hit.score:.4g}; {ranks})", "bold")
        line(console, f"    {' '.join(hit.text.split())}")
    if not found.hits:
        line(console, "nothing was found")
    line(console, f"{len(found.hits)} of {found.chunks} chunks, {1000 * found.seconds:.0f} ms", "dim")
