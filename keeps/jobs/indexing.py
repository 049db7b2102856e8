"""Make and renew the index of a folder, and search it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeps.contracts import Progress, SilentProgress
from keeps.errors import SettingsError
from keeps.sources import Hit

if TYPE_CHECKING:
    from keeps.retrieval import Corpus

NO_ENCODER = "none"


@dataclass(frozen=True)
class IndexOutcome:
    """What became of an index.

    Attributes:
        added, updated, removed, unchanged: documents.
        skipped: files that were not read, with reasons; documents that are known from them stay as they were.
        truncated: chunks of which only the beginning was encoded.
        written: whether anything was.
    """

    folder: Path
    added: int
    updated: int
    removed: int
    unchanged: int
    skipped: tuple[Mapping[str, str], ...]
    documents: int
    chunks: int
    truncated: int
    encoder: str
    written: bool
    seconds: float


@dataclass(frozen=True)
class SearchOutcome:
    """What was found."""

    query: str
    hits: tuple[Hit, ...]
    chunks: int
    seconds: float


def index(
    source: str | Path,
    out: str | Path,
    *,
    encoder: str | None = None,
    settings: Mapping[str, Any] | None = None,
    keep_missing: bool = False,
    largest: int | None = None,
    progress: Progress | None = None,
) -> IndexOutcome:
    """Make ``out`` the index of the documents in ``source``; what is there already and unchanged is not done again.

    Documents whose files are gone are taken out. If ``out`` is no index yet, it is made.

    Args:
        encoder: name or folder of a sentence encoder, ``"none"`` for search by words alone; by default that of the
            index, and the embedded one for a new index.
        settings: of :class:`keeps.retrieval.IndexSettings`; an index that is there must have the same.
        keep_missing: leave documents in the index that are not in ``source``.
        largest: bytes of a file.

    Raises:
        InputFileError: there is no such folder.
        EmptySetError: nothing in it can be read; the index stays as it is.
        SettingsError: the index was made with another encoder or other settings.
        StorageError: ``out`` is no index and not empty; the disk is full; another process writes it.
    """
    from keeps.retrieval.reading import LARGEST_FILE, read_documents

    started = time.monotonic()
    progress = progress or SilentProgress()
    corpus = _corpus(Path(out), encoder, settings or {})
    most = LARGEST_FILE if largest is None else largest
    reading = read_documents(source, largest=most, exclude=out, progress=progress)
    before = {name: corpus.digest_of(name) for name in corpus}
    unread = tuple(reading.unread)
    given = {document.id: document for document in reading.documents}
    gone = [
        name
        for name in before
        if name not in given and not keep_missing and not any(_comes_from(name, path) for path in unread)
    ]
    changed = [document for name, document in given.items() if before.get(name) != document.digest]
    corpus.delete(gone)
    corpus.add(changed, overwrite=True)
    written = corpus.save(progress)
    updated = sum(document.id in before for document in changed)
    embedder = corpus.embedder if written else None
    return IndexOutcome(
        folder=Path(out),
        added=len(changed) - updated,
        updated=updated,
        removed=len(gone),
        unchanged=len(given) - len(changed),
        skipped=tuple({"path": item.path, "reason": item.reason} for item in reading.skipped),
        documents=sum(1 for _ in corpus),
        chunks=len(corpus),
        truncated=embedder.truncated if embedder is not None else 0,
        encoder=corpus.encoder_name or NO_ENCODER,
        written=written,
        seconds=time.monotonic() - started,
    )


def search(
    folder: str | Path,
    query: str,
    *,
    k: int = 5,
    words: bool = True,
    meaning: bool | None = None,
    where: Sequence[str] | Mapping[str, Any] = (),
    approximate: bool = False,
) -> SearchOutcome:
    """The ``k`` best chunks of the index in ``folder``.

    Args:
        words, meaning: how is searched; by default both, where the index has vectors.
        where: only documents whose meta has these values; ``"lang=en"`` or a mapping.

    Raises:
        StorageError: there is no index in ``folder``, or it is damaged.
        SettingsError: the encoder is not that of the index, or ``where`` cannot be read.
    """
    from keeps.retrieval import Corpus, HybridRetriever

    corpus = Corpus.open(folder)
    retriever = HybridRetriever(corpus, words, meaning, approximate=approximate)
    wanted = where if isinstance(where, Mapping) else _conditions(where)
    started = time.monotonic()
    hits = retriever.search(query, k, where=wanted or None)
    return SearchOutcome(query, tuple(hits), len(corpus), time.monotonic() - started)


def _corpus(out: Path, encoder: str | None, settings: Mapping[str, Any]) -> Corpus:
    from keeps.retrieval import Corpus, IndexSettings
    from keeps.retrieval.embedders import DEFAULT_ENCODER
    from keeps.retrieval.generations import MANIFEST

    if not (out / MANIFEST).exists():
        name = None if encoder == NO_ENCODER else encoder or DEFAULT_ENCODER
        return Corpus.create(out, encoder=name, settings=IndexSettings.from_mapping(settings))
    corpus = Corpus.open(out)
    has = {**corpus.settings.to_mapping(), "encoder": corpus.encoder_name or NO_ENCODER}
    wanted = {**settings, **({"encoder": encoder} if encoder else {})}
    other = [f"{name} {has.get(name)}" for name, value in wanted.items() if has.get(name) != value]
    if other:
        mend = "leave these options out, or write to another folder"
        raise SettingsError(f"the index was made with {', '.join(other)}", where=str(out), mend=mend)
    return corpus


def _comes_from(document: str, path: str) -> bool:
    """Whether a document is that of a file, or of one of its rows."""
    return document == path or document.startswith(f"{path}:")


def _conditions(texts: Sequence[str]) -> dict[str, Any]:
    """``key=value`` as meta has it: numbers and truth values as such."""
    found: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise SettingsError(f'"{text}" is no condition', where="--where", mend="write it as lang=en")
        try:
            read = json.loads(value)
        except ValueError:
            read = value
        found[key.strip()] = read if isinstance(read, (str, int, float, bool)) or read is None else value
    return found
