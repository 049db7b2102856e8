"""Documents: what is put into a corpus, and what it answers when asked for one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from keeps.errors import RecordError
from keeps.retrieval.words import digest

LONGEST_ID = 1000  # characters
LONGEST_TEXT = 50_000_000  # characters: ten times the King James Bible
Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Document:
    """A text with a name.

    Attributes:
        id: how it is cited; unique in a corpus.
        text: as it is, from the first character; places of chunks count in it.
        title: shown with its chunks, and encoded with them.
        meta: what a search may ask for: ``{"lang": "en"}``. Texts, numbers, truth values.
    """

    id: str
    text: str
    title: str = ""
    meta: Mapping[str, Scalar] = field(default_factory=lambda: MappingProxyType({}))

    @cached_property
    def digest(self) -> str:
        """Hash of everything but the id (32 hexadecimal digits)."""
        return digest(self.title, self.text, json.dumps(dict(self.meta), sort_keys=True, ensure_ascii=False))

    def checked(self) -> Document:
        """The document itself.

        Raises:
            RecordError: id or text is missing, too long or no valid text, or ``meta`` holds something else.
        """
        where = f"document {self.id[:80]!r}" if isinstance(self.id, str) else "document"
        for name, most in (("id", LONGEST_ID), ("text", LONGEST_TEXT), ("title", LONGEST_ID)):
            value = getattr(self, name)
            if not isinstance(value, str) or (name != "title" and not value.strip()):
                raise RecordError(f"the {name} is empty or no text", where=where, mend=f"give the document a {name}")
            if len(value) > most:
                what = f"the {name} has {len(value):,} characters, and {most:,} is the most"
                raise RecordError(what, where=where, mend="shorten it, or divide the document")
            if not value.isascii() and any("\ud800" <= sign <= "\udfff" for sign in value):
                what = f"the {name} holds half of a surrogate pair, which is no character"
                raise RecordError(what, where=where, mend="decode the text again")
        for key, value in self.meta.items():
            if not isinstance(key, str) or not (value is None or isinstance(value, (str, int, float, bool))):
                mend = "give texts, numbers and truth values only"
                raise RecordError(f"the value of {key!r} in meta is of another type", where=where, mend=mend)
        try:
            json.dumps(dict(self.meta), allow_nan=False).encode()
        except ValueError:
            what = "meta holds a number that is not finite"
            raise RecordError(what, where=where, mend="give finite numbers") from None
        return self


@dataclass(frozen=True)
class Entry:
    """A document in an index, without its text.

    Attributes:
        digest: :attr:`Document.digest`.
        size: bytes of its text in UTF-8.
    """

    id: str
    title: str
    meta: Mapping[str, Any]
    digest: str
    size: int


class StoredEntries(Sequence[Entry]):
    """Entries as lines of JSON, of which only those are parsed that are asked for: a large index opens at once."""

    def __init__(self, data: bytes) -> None:
        self._lines = data.splitlines()  # of bytes: only at line feeds, which JSON has none of inside

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[place] for place in range(len(self))[number]]
        return Entry(**json.loads(self._lines[number]))

    def __iter__(self) -> Iterator[Entry]:
        for values in json.loads(b"[" + b",".join(self._lines) + b"]"):  # at once is three times as fast as each
            yield Entry(**values)


def byte_places(text: str, places: list[int]) -> list[int]:
    """Where characters stand in the UTF-8 form of ``text``; in the order of ``places``.

    >>> byte_places("aéb", [0, 1, 2, 3])
    [0, 1, 3, 4]
    """
    if text.isascii():
        return list(places)
    found: dict[int, int] = {}
    before = count = 0
    for place in sorted(set(places)):
        count += len(text[before:place].encode())
        found[place], before = count, place
    return [found[place] for place in places]


def given_documents(
    texts: Iterable[str | Document],
    ids: Sequence[str] | None,
    titles: Sequence[str] | None,
    meta: Sequence[Mapping[str, Any]] | None,
) -> list[Document]:
    """Texts with their ids, titles and meta as documents; a text without an id is called by its hash.

    Raises:
        RecordError: the lists differ in length, or a document cannot be taken.
    """
    if isinstance(texts, (str, Document)):
        raise RecordError("texts is one text, not a list of texts", where="Corpus.add", mend="put it in a list")
    given = list(texts)
    for name, values in (("ids", ids), ("titles", titles), ("meta", meta)):
        if values is not None and (isinstance(values, str) or len(values) != len(given)):
            what = f"there are {len(given)} texts, and {name} is of another length"
            raise RecordError(what, where="Corpus.add", mend="give one for each")
    documents = []
    for place, text in enumerate(given):
        if isinstance(text, Document):
            document = text
        else:
            title, about = titles[place] if titles else "", meta[place] if meta else {}
            name = ids[place] if ids else "text-" + digest(title, text)[:16] if isinstance(text, str) else "text"
            document = Document(name, text, title, about)
        documents.append(document.checked())
    return documents
