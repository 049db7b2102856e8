"""WordNet as a graph: senses such as ``dog.n.1`` and the relations between them, from the files of an installation.

Source: Miller, "WordNet: A Lexical Database for English" (1995); formats: ``wndb(5WN)``. A sense is called by the first
word of its set of synonyms, its part of speech and its number among the senses of that word. Every edge has the file
and the place in it as its source.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from keeps.data.triples import Triple
from keeps.data.world.wordnet import wordnet_folder
from keeps.errors import InputFileError
from keeps.graphs.graph import KnowledgeGraph

PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
RELATIONS = {
    "@": "hypernym",
    "@i": "instance hypernym",
    "%m": "member meronym",
    "%s": "substance meronym",
    "%p": "part meronym",
    "!": "antonym",
    "*": "entailment",
    ">": "cause",
    "=": "attribute",
    "&": "similar to",
}
"""Pointers that are read; their inverses (hyponyms, holonyms) are the same edges, seen from the other end."""


def wordnet_graph(folder: str | Path | None = None, parts: tuple[str, ...] = ("noun", "verb")) -> KnowledgeGraph:
    """The relations between senses of these parts of speech.

    Args:
        folder: of the files; by default ``KEEPS_WORDNET`` or a usual place.
        parts: among ``noun``, ``verb``, ``adj``, ``adv``.

    Raises:
        MissingDependencyError: WordNet is not installed.
        InputFileError: a file is missing or damaged.
    """
    place = Path(folder) if folder is not None else wordnet_folder()
    try:
        return _graph(place, parts)
    except (ValueError, IndexError, KeyError) as error:
        what = f"the files of WordNet are damaged or do not belong together ({str(error)[:100]})"
        raise InputFileError(what, where=str(place), mend="install WordNet again") from None


def _graph(place: Path, parts: tuple[str, ...]) -> KnowledgeGraph:
    names: dict[tuple[str, str], str] = {}
    for part in parts:
        names |= _names(place, part)
    graph = KnowledgeGraph()
    for part in parts:
        for offset, fields in _lines(place / f"data.{part}"):
            head = names[PARTS[part], offset]
            for symbol, target, kind in _pointers(fields):
                tail = names.get(("a" if kind == "s" else kind, target))
                if symbol in RELATIONS and tail is not None:
                    graph.add([Triple(head, RELATIONS[symbol], tail)], source=f"wordnet:data.{part}@{offset}")
    return graph


def _names(place: Path, part: str) -> dict[tuple[str, str], str]:
    """What the senses of a part of speech are called, by part and offset."""
    numbers: dict[tuple[str, str], int] = {}
    for lemma, fields in _lines(place / f"index.{part}"):
        count = int(fields[2])
        numbers |= {(lemma, offset): number for number, offset in enumerate(fields[-count:], 1)}
    found = {}
    for offset, fields in _lines(place / f"data.{part}"):
        word = fields[4].partition("(")[0]  # adjectives may have a syntactic marker
        number = numbers.get((word.lower(), offset), 0)
        found[PARTS[part], offset] = f"{word.replace('_', ' ')}.{PARTS[part]}.{number}"
    return found


def _pointers(fields: list[str]) -> Iterator[tuple[str, str, str]]:
    """Symbol, target and its part of speech of each pointer."""
    start = 4 + 2 * int(fields[3], 16)
    for place in range(start + 1, start + 1 + 4 * int(fields[start]), 4):
        yield fields[place], fields[place + 1], fields[place + 2]


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The first field of each line, and all of them, without the gloss; the licence is passed over."""
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                if line.startswith(" ") or not line.strip():
                    continue
                fields = line.partition(" | ")[0].split()
                if len(fields) < 6:
                    where = f"{path}, line {number}"
                    raise InputFileError("the line is too short", where=where, mend="install WordNet again")
                yield fields[0], fields
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        what = f"a file of WordNet cannot be read ({reason})"
        raise InputFileError(what, where=str(path), mend="install WordNet again") from None
