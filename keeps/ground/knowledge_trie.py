"""A trie of what documents or triples say, keyed by the terms of subject and object; every entry knows its source.

    "The mascot of Zorvia is the heron"  ->  mascot > zorvia > heron   (relation "is", source doc7)

Words are nodes, so that ``paris`` never finds ``parish``. The file is plain text, one JSON object a line; nothing in
it can be executed. Terms are found by a stated rule (:mod:`keeps.data.terms`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keeps.data.rows import path_mode
from keeps.data.terms import RULES, Term, find_statements, find_terms
from keeps.data.triples import Triple
from keeps.errors import EmptySetError, InputFileError, SettingsError, UnknownNameError, nearest
from keeps.weights.files import atomic_write_bytes

FORMAT = {"format": "keeps knowledge trie", "version": 1}
MATCHES = ("word", "longest")
MOST_ENTRIES = 5_000_000  # of a file; more are refused rather than read into memory
MOST_WORDS = 24  # of a key: an object that is a long text is no name


@dataclass(frozen=True)
class Entry:
    """One key: terms of subject and object, as compared and as written, the relation, and who says so."""

    words: tuple[str, ...]
    written: tuple[str, ...]
    relation: str = ""
    source: str = ""


@dataclass(frozen=True)
class Found:
    """A term that a query brought up.

    Attributes:
        key: as it is compared.
        written: its spellings in the sources.
        path: the mentions that led there, from the text to the last hop.
        sources: ids of the documents or triples, in order of finding.
    """

    key: str
    written: tuple[str, ...]
    path: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass
class _Node:
    children: dict[str, _Node] = field(default_factory=dict)
    entries: list[int] = field(default_factory=list)


class KnowledgeTrie:
    """Entries by their words; made once, then only read.

    Raises:
        EmptySetError: there is no entry.
    """

    def __init__(self, entries: Iterable[Entry], *, where: str = "knowledge trie") -> None:
        self.entries = tuple(dict.fromkeys(entry for entry in entries if entry.words))
        if not self.entries:
            mend = "give documents whose sentences name something, or triples"
            raise EmptySetError("the trie holds no entry", where=where, mend=mend)
        self._root = _Node()
        for number, entry in enumerate(self.entries):
            node = self._root
            for word in entry.words:
                node = node.children.setdefault(word, _Node())
            node.entries.append(number)

    def __len__(self) -> int:
        return len(self.entries)

    @classmethod
    def from_documents(cls, documents: Iterable[tuple[str, str]], *, rule: str = "words") -> KnowledgeTrie:
        """The statements of ``(id, text)`` documents, found by the rule of :mod:`keeps.data.terms`.

        Raises:
            EmptySetError: no sentence names anything.
            UnknownNameError: there is no such rule of terms.
        """
        _check_choice("rule of terms", rule, RULES)
        made = (
            _entry(said.subject, said.relation, said.object, name, rule)
            for name, text in documents
            for said in find_statements(text)
        )
        return cls(made, where="documents")

    @classmethod
    def from_triples(cls, triples: Iterable[Triple], *, rule: str = "words") -> KnowledgeTrie:
        """Triples as entries; a triple's ``id`` is its source."""
        _check_choice("rule of terms", rule, RULES)
        made = (_entry(item.head, item.relation, item.tail, item.id, rule) for item in triples)
        return cls(made, where="triples")

    def lookup(self, mentions: Sequence[str], *, hops: int = 1, match: str = "word") -> list[Found]:
        """Every term of the entries that begin with a mention; what is found leads on, ``hops`` times.

        Args:
            mentions: keys of terms, in the order of the text.
            hops: how often found terms are looked up in turn; a term is looked up once, so that loops end.
            match: ``"word"`` takes all entries that begin with a mention; ``"longest"`` those that begin with as
                many of the mentions that follow it as they can.

        Raises:
            SettingsError: ``hops`` is below 1.
            UnknownNameError: there is no such match.
        """
        if hops < 1:
            raise SettingsError(f"hops is {hops}", where="knowledge trie", mend="choose 1 or more")
        _check_choice("match", match, MATCHES)
        found: dict[str, Found] = {}
        paths: dict[str, tuple[str, ...]] = {mention: (mention,) for mention in mentions}
        asked, frontier = set(paths), list(paths)
        nodes = self._first_nodes(mentions, match)
        for hop in range(hops):
            fresh: list[str] = []
            for mention in frontier:
                node = nodes.get(mention) if hop == 0 else self._root.children.get(mention)
                for number in _below(node):
                    for word, written in zip(self.entries[number].words, self.entries[number].written, strict=True):
                        self._note(found, word, written, paths[mention], self.entries[number].source)
                        if word not in asked:
                            asked.add(word)
                            fresh.append(word)
                            paths[word] = (*paths[mention], word)
            frontier = fresh
        return list(found.values())

    def save(self, path: str | Path) -> None:
        """Write the trie as one file, whole or not at all.

        Raises:
            StorageError: the disk is full, or the folder is missing or not writable.
        """
        rows: list[Mapping[str, Any]] = [{**FORMAT, "entries": len(self)}]
        rows += [{name: getattr(entry, name) for name in entry.__dataclass_fields__} for entry in self.entries]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        atomic_write_bytes(path, text.encode())

    @classmethod
    def load(cls, path: str | Path) -> KnowledgeTrie:
        """Read what :meth:`save` wrote.

        Raises:
            InputFileError: the file is missing, damaged, cut short, or no trie.
        """
        name = str(path)
        if path_mode(Path(path)) is None:
            raise InputFileError("there is no such file", where=name, mend="check the name and the folder")
        try:
            with Path(path).open(encoding="utf-8") as lines:
                return cls(_read(lines, name), where=name)
        except (OSError, UnicodeDecodeError) as error:
            raise InputFileError(f"the trie cannot be read ({error})", where=name, mend="make it again") from None

    def _first_nodes(self, mentions: Sequence[str], match: str) -> dict[str, _Node]:
        """Where the entries of each mention begin."""
        nodes: dict[str, _Node] = {}
        for place, mention in enumerate(mentions):
            node = self._root.children.get(mention)
            if node is None:
                continue
            if match == "longest":
                for following in mentions[place + 1 :]:
                    if following not in node.children:
                        break
                    node = node.children[following]
            nodes[mention] = node
        return nodes

    @staticmethod
    def _note(found: dict[str, Found], word: str, written: str, path: tuple[str, ...], source: str) -> None:
        known = found.get(word)
        if known is None:
            found[word] = Found(word, (written,), path, (source,))
            return
        spellings = known.written if written in known.written else (*known.written, written)
        sources = known.sources if source in known.sources else (*known.sources, source)
        found[word] = Found(word, spellings, known.path, sources)


def _entry(subject: str, relation: str, target: str, source: str, rule: str) -> Entry:
    # A phrase is no sentence: the word in front keeps its first word from passing for the beginning of one.
    terms: list[Term] = [*find_terms(f"the {subject}", rule), *find_terms(f"the {target}", rule)][:MOST_WORDS]
    return Entry(tuple(t.key for t in terms), tuple(t.written for t in terms), relation, source)


def _below(node: _Node | None) -> Iterator[int]:
    """Numbers of the entries at and below ``node``, without recursion: keys may be long."""
    stack = [] if node is None else [node]
    while stack:
        here = stack.pop()
        yield from here.entries
        stack += reversed(here.children.values())


def _read(lines: Iterable[str], name: str) -> Iterator[Entry]:
    expected = -1
    count = 0
    for number, line in enumerate(lines, 1):
        where = f"{name}, line {number}"
        try:
            row = json.loads(line)
        except ValueError:
            raise InputFileError("the line is no JSON", where=where, mend="make the trie again") from None
        if number == 1:
            if not isinstance(row, dict) or any(row.get(key) != value for key, value in FORMAT.items()):
                raise InputFileError("this is no knowledge trie of this version", where=where, mend="make it again")
            expected = row.get("entries", -1)
            if not isinstance(expected, int) or expected > MOST_ENTRIES:
                raise InputFileError(f"it says that it holds {expected} entries", where=where, mend="split it")
            continue
        count += 1
        if count > expected:
            break
        yield _checked(row, where)
    if count != expected:
        what = f"the trie says {expected} entries and has {'more' if count > expected else count}"
        raise InputFileError(what, where=name, mend="it was cut or joined: make it again")


def _checked(row: Any, where: str) -> Entry:
    fields = ("words", "written", "relation", "source")
    well = isinstance(row, dict) and set(row) == set(fields)
    well = well and all(isinstance(row[key], list) and all(isinstance(w, str) for w in row[key]) for key in fields[:2])
    well = well and all(isinstance(row[key], str) for key in fields[2:]) and len(row["words"]) == len(row["written"])
    if not well or not 0 < len(row["words"]) <= MOST_WORDS:
        raise InputFileError("the entry has another form", where=where, mend="make the trie again")
    return Entry(tuple(row["words"]), tuple(row["written"]), row["relation"], row["source"])


def _check_choice(what: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise UnknownNameError(f'there is no {what} "{given}"', mend=nearest(given, known))
