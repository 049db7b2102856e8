"""The index of a corpus in memory: documents, chunks, their words and their vectors, one row a chunk.

Everything is in one order, whatever happened before: documents by id, chunks by place, words by the alphabet. So an
index that was changed is the same, byte for byte, as one that is built anew from the same documents; what a change
does not touch is moved, not computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeps.contracts import Progress
from keeps.retrieval.chunks import chunk_spans
from keeps.retrieval.counts import Counts
from keeps.retrieval.dense import DTYPE, Vectors, unit_rows
from keeps.retrieval.documents import Document, Entry, byte_places
from keeps.retrieval.embedders import Embedder
from keeps.retrieval.lexical import BM25, stop_words
from keeps.retrieval.settings import IndexSettings
from keeps.retrieval.words import digest, normalised, without, words_of
from keeps.sources import Hit

DOCUMENT, START, END, FIRST_BYTE, LAST_BYTE = range(5)  # columns of ``chunks``
ENCODED_AT_ONCE = 256  # chunks
HASH = "S32"  # digests in arrays


@dataclass(frozen=True)
class Table:
    """An index.

    Attributes:
        entries: documents by id.
        offsets: ``(documents + 1,)`` int64: where each text begins, in bytes.
        texts: all texts in UTF-8, one after another (bytes, or mapped from a file).
        chunks: ``(rows, 5)`` int64: document, first character, the one after the last, and the same in bytes.
        digests: ``(rows,)``: hash of each chunk's text.
        keys: ``(rows,)``: hash of its normalised text; chunks with one key are duplicates.
        groups: ``(rows,)`` int64: chunks with one key are one group; a group is what the index of words counts.
        lexical: of the groups.
        vectors: of the rows; None without an encoder.
    """

    entries: Sequence[Entry]
    offsets: NDArray[np.int64]
    texts: Any
    chunks: NDArray[np.int64]
    digests: NDArray
    keys: NDArray
    groups: NDArray[np.int64]
    lexical: BM25
    vectors: Vectors | None

    def __len__(self) -> int:
        return len(self.chunks)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each document by its id."""
        return {entry.id: number for number, entry in enumerate(self.entries)}

    @cached_property
    def metas(self) -> list[Mapping[str, Any]]:
        """What a search may ask for, of each document."""
        return [entry.meta for entry in self.entries]

    @cached_property
    def representatives(self) -> NDArray[np.bool_]:
        """``(rows,)``: the first chunk of each group."""
        return self.firsts(np.ones(len(self), bool))

    def firsts(self, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Of those ``rows`` the first of each group."""
        chosen = np.flatnonzero(rows)
        first = np.zeros(len(self), bool)
        first[chosen[np.unique(self.groups[chosen], return_index=True)[1]]] = True
        return first

    def text(self, number: int) -> str:
        """The text of a document."""
        return bytes(self.texts[self.offsets[number] : self.offsets[number + 1]]).decode()

    def chunk(self, row: int) -> str:
        """The text of a chunk."""
        document, _, _, first, last = self.chunks[row].tolist()
        start = int(self.offsets[document])
        return bytes(self.texts[start + first : start + last]).decode()

    def chunk_id(self, row: int) -> str:
        """``document#start-end``."""
        document, start, end = self.chunks[row, :3].tolist()
        return f"{self.entries[document].id}#{start}-{end}"

    def is_whole(self, row: int) -> bool:
        """Whether the stored text of a chunk is the one that was indexed."""
        try:
            return digest(self.chunk(row)).encode() == bytes(self.digests[row])
        except UnicodeDecodeError:
            return False

    def problem_of(self, hit: Hit) -> str:
        """Why a passage that was found is not (or no longer) what the index holds; empty if it is."""
        number = self.numbers.get(hit.document)
        if number is None:
            return "its document is not in the corpus"
        row = next((row for row in self.rows_of(number) if tuple(self.chunks[row, 1:3].tolist()) == hit.span), None)
        if row is None:
            return "its document was changed since"
        if digest(hit.text).encode() != bytes(self.digests[row]) or not self.is_whole(row):
            return "its text is not the one that was indexed"
        return ""

    def rows_of(self, number: int) -> range:
        """The rows of a document."""
        first, last = np.searchsorted(self.chunks[:, DOCUMENT], [number, number + 1]).tolist()
        return range(first, last)


def empty_table(settings: IndexSettings, width: int | None) -> Table:
    """An index of nothing; ``width`` of its vectors, None for none."""
    none = np.empty(0, HASH)
    vectors = None if width is None else Vectors(np.empty((0, width), DTYPE))
    lexical = BM25.of(Counts.of([]), settings.k1, settings.b)
    return Table(
        (), np.zeros(1, np.int64), b"", np.empty((0, 5), np.int64), none, none, np.empty(0, np.int64), lexical, vectors
    )


def changed(
    old: Table,
    changes: Mapping[str, Document | None],
    settings: IndexSettings,
    embedder: Embedder | None,
    progress: Progress,
) -> Table:
    """``old`` with documents added or replaced, and those whose value is None taken out."""
    fresh = sorted((document for document in changes.values() if document is not None), key=lambda item: item.id)
    entries, texts, old_numbers, new_numbers = _merged(old, fresh, changes)

    held = np.flatnonzero(old_numbers[old.chunks[:, DOCUMENT]] >= 0)
    chunks, strings = _cut(fresh, new_numbers, settings)
    moved = old.chunks[held].copy()
    moved[:, DOCUMENT] = old_numbers[moved[:, DOCUMENT]]
    joined = np.concatenate([moved, chunks])
    order = np.lexsort((joined[:, START], joined[:, DOCUMENT]))
    source = np.concatenate([held, len(old) + np.arange(len(chunks))])[order]  # old rows, then new ones

    digests = _moved(old.digests, [digest(text) for text in strings], source)
    keys = _moved(old.keys, [digest(normalised(text)) for text in strings], source)
    _, first, groups = np.unique(keys, return_index=True, return_inverse=True)
    left_out = stop_words(settings.stop_words)
    counted = Counts.of(
        without(words_of(text), left_out) for text in _shown(strings, "Count the words of chunks", progress)
    )
    before = np.concatenate([old.groups, len(old.lexical) + np.arange(len(chunks))])
    counts = Counts.stacked([old.lexical.counts(), counted], before[source[first]])
    lexical = BM25.of(counts, settings.k1, settings.b)

    vectors = None
    if embedder is not None:
        titles = [fresh[place].title for place in _owners(chunks, new_numbers)]
        made = _encoded(old, changes, list(zip(titles, strings, strict=True)), embedder, progress)
        rows = old.vectors.rows if old.vectors is not None else np.empty((0, made.shape[1]), DTYPE)
        vectors = Vectors(np.concatenate([rows, made])[source])
    offsets = np.cumsum([0, *(entry.size for entry in entries)], dtype=np.int64)
    return Table(
        entries, offsets, texts, joined[order], digests, keys, groups.reshape(-1).astype(np.int64), lexical, vectors
    )


def _merged(
    old: Table, fresh: Sequence[Document], changes: Mapping[str, Document | None]
) -> tuple[tuple[Entry, ...], bytes, NDArray[np.int64], list[int]]:
    """All documents by id, their texts, the new number of each old one (-1: gone) and of each fresh one."""
    staying = [(entry.id, number, -1) for number, entry in enumerate(old.entries) if entry.id not in changes]
    order = sorted([*staying, *((document.id, -1, place) for place, document in enumerate(fresh))])
    entries: list[Entry] = []
    texts: list[Any] = []
    old_numbers = np.full(len(old.entries), -1, np.int64)
    new_numbers = [0] * len(fresh)
    view = memoryview(old.texts)
    for number, (_, before, place) in enumerate(order):
        if before >= 0:
            old_numbers[before] = number
            entries.append(old.entries[before])
            texts.append(view[old.offsets[before] : old.offsets[before + 1]])
        else:
            document, data = fresh[place], fresh[place].text.encode()
            new_numbers[place] = number
            entries.append(Entry(document.id, document.title, dict(document.meta), document.digest, len(data)))
            texts.append(data)
    return tuple(entries), b"".join(texts), old_numbers, new_numbers


def _cut(
    fresh: Sequence[Document], numbers: Sequence[int], settings: IndexSettings
) -> tuple[NDArray[np.int64], list[str]]:
    """The chunks of new documents, and their texts."""
    rows: list[tuple[int, ...]] = []
    strings: list[str] = []
    for document, number in zip(fresh, numbers, strict=True):
        spans = chunk_spans(document.text, settings.chunk_words, settings.overlap)
        places = byte_places(document.text, [place for span in spans for place in span])
        for (start, end), first, last in zip(spans, places[::2], places[1::2], strict=True):
            rows.append((number, start, end, first, last))
            strings.append(document.text[start:end])
    return np.array(rows, np.int64).reshape(-1, 5), strings


def _owners(chunks: NDArray[np.int64], numbers: Sequence[int]) -> list[int]:
    places = {number: place for place, number in enumerate(numbers)}
    return [places[number] for number in chunks[:, DOCUMENT].tolist()]


def _moved(old: NDArray, new: Sequence[str], source: NDArray[np.int64]) -> NDArray:
    return np.concatenate([old, np.array(new, HASH)]).astype(HASH)[source]


def _encoded(
    old: Table,
    changes: Mapping[str, Document | None],
    texts: Sequence[tuple[str, str]],
    embedder: Embedder,
    progress: Progress,
) -> NDArray[np.float16]:
    """Vectors of titles and chunks; those that stood in a replaced document are taken from there."""
    known: dict[tuple[str, str], int] = {}
    if old.vectors is not None:
        for name in changes:
            number = old.numbers.get(name)
            if number is not None:
                title = old.entries[number].title
                known |= {(title, old.chunk(row)): row for row in old.rows_of(number)}
    different = list(dict.fromkeys(text for text in texts if text not in known))
    made: dict[tuple[str, str], NDArray] = {}
    for batch in _batches(different, "Encode chunks", progress):
        vectors = embedder.passages([f"{title}\n{text}" if title else text for title, text in batch])
        made |= dict(zip(batch, unit_rows(vectors, embedder.width).astype(DTYPE), strict=True))
    if old.vectors is not None:
        made |= {text: old.vectors.rows[row] for text, row in known.items()}
    rows = [made[text] for text in texts]
    width = old.vectors.width if old.vectors is not None else embedder.width
    return np.array(rows, DTYPE).reshape(len(rows), width)


def _batches(items: Sequence[Any], what: str, progress: Progress) -> Iterator[Sequence[Any]]:
    if not items:
        return
    with progress.task(what, len(items)) as task:
        for start in range(0, len(items), ENCODED_AT_ONCE):
            yield items[start : start + ENCODED_AT_ONCE]
            task.advance(min(ENCODED_AT_ONCE, len(items) - start))


def _shown(items: Sequence[Any], what: str, progress: Progress) -> Iterator[Any]:
    for batch in _batches(items, what, progress):
        yield from batch
