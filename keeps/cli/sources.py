"""Options that name what ``keeps ground`` and its like look into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from keeps.sources import reader_of

OPTIONS = {
    "--docs": "documents",
    "--graph": "graph",
    "--card": "cards",
    "--tables": "tables",
    "--memory": "pairs",
}

Docs = Annotated[
    str | None, typer.Option("--docs", help="Folder or file of documents, or the folder of an index.", metavar="PATH")
]
Graph = Annotated[
    str | None, typer.Option("--graph", help="File of triples, for methods that walk in a graph.", metavar="FILE")
]
Cards = Annotated[
    list[str] | None,
    typer.Option(
        "--card",
        help="Model of one domain, for knowledge_cards: 'NAME: LINE=RUN'; repeat it. --docs are then its evidence.",
        metavar="NAME=RUN",
    ),
]
Tables = Annotated[
    str | None,
    typer.Option(
        "--tables",
        help="Files of entities with commas between them, or a folder, for hybrid_dialog. --docs are about them then.",
        metavar="PATH",
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        help="Questions with answers, for qa_memory: a file, world:RELATION, or the folder of a memory.",
        metavar="PATH",
    ),
]
Retriever = Annotated[str, typer.Option("--retriever", help="How documents are searched: lexical, dense or hybrid.")]


def given_of(words: Sequence[str]) -> set[str]:
    """What the options on a command line name, as methods name what they need.

    >>> given_of(["--memory", "world:capital", "--docs=./docs"]) == {"pairs", "documents"}
    True
    """
    options = {word.partition("=")[0] for word in words}
    return {name for option, name in OPTIONS.items() if option in options}


def default_method(words: Sequence[str]) -> str:
    """The method that answers from what a command line names, where it names none.

    >>> default_method(["--graph", "facts.tsv"]), default_method([])
    ('kg_search', 'rag')
    """
    return reader_of(given_of(words))
