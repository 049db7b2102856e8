"""``keeps index``: make and renew the index of a folder of documents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from keeps.cli import options
from keeps.cli.terminal import line, terminal

EXAMPLES = (
    "keeps index ./documents --out ./kb",
    "keeps index ./documents --out ./kb --encoder none",
    "keeps index articles.jsonl --out ./kb --chunk-words 60 --json",
)
SHOWN = 10  # files that were not read


def command(
    source: Annotated[Path, typer.Argument(help="A folder, or a file: .txt .md .html .pdf .jsonl .csv .parquet.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="The folder of the index; one that is there is renewed.")],
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", help="Sentence encoder: a folder, a hub id, or none for search by words alone."),
    ] = None,
    chunk_words: Annotated[
        int | None, typer.Option("--chunk-words", min=1, help="Longest chunk in words; by default 120.")
    ] = None,
    overlap: Annotated[
        int | None, typer.Option("--overlap", min=0, help="Sentences in common of neighbouring chunks; by default 1.")
    ] = None,
    stop_words: Annotated[
        str | None, typer.Option("--stop-words", help="Words that are not indexed: none or english.")
    ] = None,
    keep_missing: Annotated[
        bool, typer.Option("--keep-missing", help="Keep documents in the index that are not in the folder.")
    ] = False,
    largest: Annotated[
        float | None, typer.Option("--largest", min=0, help="Largest file that is read, in MB; by default 268.")
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Index documents for search; run again, it does only what has changed."""
    del debug
    from keeps.jobs.indexing import index

    given = {"chunk_words": chunk_words, "overlap": overlap, "stop_words": stop_words}
    settings = {name: value for name, value in given.items() if value is not None}
    with terminal(json=json, quiet=quiet) as term:
        found = index(
            source,
            out,
            encoder=encoder,
            settings=settings,
            keep_missing=keep_missing,
            largest=None if largest is None else int(largest * 1e6),
            progress=term.progress,
        )
        term.emit(found, lambda console: _show(console, found))


def _show(console: Any, found: Any) -> None:
    line(console, f"{found.folder}: {found.documents} documents, {found.chunks} chunks, encoder {found.encoder}")
    state = "written" if found.written else "nothing to do"
    counts = f"{found.added} added, {found.updated} updated, {found.removed} removed, {found.unchanged} unchanged"
    line(console, f"{state} in {found.seconds:.1f} s: {counts}")
    if found.truncated:
        line(console, f"{found.truncated} chunks are longer than the encoder takes: their end is found by words only")
    for item in found.skipped[:SHOWN]:
        line(console, f"not read: {item['path']}: {item['reason']}")
    if len(found.skipped) > SHOWN:
        line(console, f"not read: {len(found.skipped) - SHOWN} more (--json lists all)")
