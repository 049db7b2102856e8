"""A corpus: documents that are added, replaced and deleted, the index of them, and the folder that it lives in.

    corpus = Corpus.create("kb", encoder=None)
    corpus.add(["Oslo is the capital of Norway."], ids=["norway"])
    corpus.save()
    Corpus.open("kb").get("norway").text

Changes are collected, and the index is brought up to date when it is next searched or saved. An index that was changed
is the same as one built anew, and what is on the disk changes at once when it is saved (see ``generations``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keeps.contracts import Progress, SilentProgress
from keeps.errors import RecordError, SettingsError, StorageError, UnknownNameError, nearest
from keeps.retrieval.documents import Document, given_documents
from keeps.retrieval.embedders import DEFAULT_ENCODER, Embedder, make_embedder
from keeps.retrieval.generations import MANIFEST, check_files, read_manifest, write_version
from keeps.retrieval.index_files import read_table, write_table
from keeps.retrieval.settings import IndexSettings
from keeps.retrieval.table import Table, changed, empty_table
from keeps.retrieval.words import digest
from keeps.versions import __version__

ATTEMPTS = 3  # at opening: a version may be replaced between its manifest and its files


class Corpus:
    """Documents and their index. Made by :meth:`create` or :meth:`open`.

    ``len(corpus)`` is the number of chunks, ``id in corpus`` asks for a document, iteration gives ids in order.
    """

    def __init__(
        self,
        table: Table,
        settings: IndexSettings,
        embedder: Embedder | None,
        *,
        folder: Path | None = None,
        manifest: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = settings
        self.folder = folder
        self._table = table
        self._changes: dict[str, Document | None] = {}
        self._embedder = embedder
        self._manifest = manifest

    @classmethod
    def create(
        cls,
        folder: str | Path | None = None,
        *,
        encoder: Embedder | str | Path | None = DEFAULT_ENCODER,
        settings: IndexSettings | None = None,
    ) -> Corpus:
        """A corpus without documents, for ``folder`` (None: in memory only); nothing is written before :meth:`save`.

        Args:
            encoder: for search by meaning; None for search by words alone.

        Raises:
            StorageError: there is an index in ``folder``, or it is a file, or holds other things.
        """
        settings = settings or IndexSettings()
        path = None if folder is None else Path(folder)
        there = [] if path is None or not path.exists() else list(path.iterdir()) if path.is_dir() else [path]
        if any(not item.name.startswith((".lock", "version-")) for item in there):  # what a killed process may leave
            what = "there is an index" if path and (path / MANIFEST).exists() else "there are other things"
            raise StorageError(f"{what} in this folder already", where=str(path), mend="open it, or choose another")
        embedder = make_embedder(encoder)
        return cls(empty_table(settings, None if embedder is None else embedder.width), settings, embedder, folder=path)

    @classmethod
    def open(
        cls, folder: str | Path, *, encoder: Embedder | str | Path | None = None, check_all: bool = False
    ) -> Corpus:
        """The corpus in ``folder``. Nothing is loaded but what a search needs.

        Args:
            encoder: the one that the index was made with, where its name does not lead to it any more.
            check_all: compare every byte with what was written, also in a large index.

        Raises:
            StorageError: there is no index, it is damaged, or of another schema.
            SettingsError: ``encoder`` is another one than that of the index.
        """
        path = Path(folder)
        for attempt in range(ATTEMPTS):
            manifest = read_manifest(path)
            try:
                return cls._opened(path, manifest, encoder, check_all)
            except StorageError:
                if attempt == ATTEMPTS - 1 or read_manifest(path)["version"] == manifest["version"]:
                    raise
        raise StorageError("the index changes all the time", where=str(path), mend="try again")

    @classmethod
    def _opened(
        cls, path: Path, manifest: Mapping[str, Any], encoder: Embedder | str | Path | None, check_all: bool
    ) -> Corpus:
        try:
            said = manifest["encoder"]
            settings = IndexSettings.from_mapping(manifest["settings"])
            width = None if said is None else int(said["width"])
            name = None if said is None else str(said["name"])
        except (KeyError, TypeError, ValueError, SettingsError, UnknownNameError) as error:
            what = f"the manifest of the index is damaged ({str(error)[:100]})"
            raise StorageError(what, where=str(path / MANIFEST), mend="make the index again") from None
        version = check_files(path, manifest, every=check_all)
        table = read_table(version, settings, width, empty_table(settings, width))
        given = make_embedder(encoder)
        if name is None and given is not None:
            what = "the index holds no vectors"
            raise SettingsError(what, where=str(path), mend="open it without an encoder, or make it again with one")
        found = cls(table, settings, given or make_embedder(name), folder=path, manifest=manifest)
        if given is not None:
            found.embedder  # noqa: B018  (refuses another encoder)
        return found

    @property
    def embedder(self) -> Embedder | None:
        """The encoder, known to be that of the index.

        Raises:
            SettingsError: it is another one.
        """
        if self._embedder is None or self._manifest is None:
            return self._embedder
        said = self._manifest["encoder"]
        if said["fingerprint"] != self._embedder.fingerprint:
            this = f'"{self._embedder.name}" ({self._embedder.fingerprint})'
            what = f'the index was made with the encoder "{said["name"]}" ({said["fingerprint"]}), and this is {this}'
            mend = "give the encoder that it was made with, search by words alone, or make the index again"
            raise SettingsError(what, where=str(self.folder), mend=mend)
        return self._embedder

    @property
    def encoder_name(self) -> str | None:
        """The name of the encoder; None if it can be searched by words alone."""
        return None if self._embedder is None else self._embedder.name

    # --- changing ---------------------------------------------------------------------------------

    def add(
        self,
        texts: Iterable[str | Document],
        ids: Sequence[str] | None = None,
        *,
        titles: Sequence[str] | None = None,
        meta: Sequence[Mapping[str, Any]] | None = None,
        overwrite: bool = False,
    ) -> list[str]:
        """Add documents; all of them, or none if one is refused.

        Args:
            texts: texts or :class:`Document`.
            ids: of the texts; without them a text is called by its hash, so that the same text is added once.
            overwrite: replace documents with the same id.

        Returns:
            Their ids.

        Raises:
            RecordError: a text is empty or no text, lists differ in length, or an id belongs to another text already.
        """
        given = given_documents(texts, ids, titles, meta)
        seen: dict[str, str] = {}
        for document in given:
            known = seen.get(document.id) or (None if overwrite else self.digest_of(document.id))
            if known not in (None, document.digest):
                what = f'the id "{document.id[:80]}" is there already'
                mend = "choose another id, or overwrite what is there"
                raise RecordError(what, where="Corpus.add", mend=mend)
            seen[document.id] = document.digest
        self._changes |= {document.id: document for document in given if not self._same(document)}
        return [document.id for document in given]

    def update(self, id: str, text: str, *, title: str | None = None, meta: Mapping[str, Any] | None = None) -> None:  # noqa: A002
        """Replace the text of a document; title and meta stay where they are not given.

        Raises:
            UnknownNameError: there is no such document.
            RecordError: the text is empty or no text.
        """
        old = self.get(id)
        kept_title, kept_meta = old.title if title is None else title, old.meta if meta is None else meta
        self.add([Document(id, text, kept_title, kept_meta)], overwrite=True)

    def delete(self, ids: str | Iterable[str]) -> None:
        """Take documents out; all of them, or none if one is unknown.

        Raises:
            UnknownNameError: there is no such document.
        """
        names = [ids] if isinstance(ids, str) else list(dict.fromkeys(ids))
        for name in names:
            if name not in self:
                mend = nearest(name, self)
                raise UnknownNameError(f'there is no document "{name}"', where="Corpus.delete", mend=mend)
        for name in names:
            if name in self._table.numbers:
                self._changes[name] = None
            else:
                del self._changes[name]

    def table(self, progress: Progress | None = None) -> Table:
        """The index, brought up to date: new chunks are counted and encoded."""
        if self._changes:
            progress = progress or SilentProgress()
            embedder = self.embedder
            self._table = changed(self._table, self._changes, self.settings, embedder, progress)
            self._changes = {}
        return self._table

    def save(self, progress: Progress | None = None) -> bool:
        """Write the index to its folder, if anything changed since it was opened; says whether it was written.

        Raises:
            SettingsError: the corpus has no folder.
            StorageError: another process has changed the index; the disk is full.
        """
        if self.folder is None:
            raise SettingsError("the corpus has no folder", where="Corpus.save", mend="create it with one")
        found = self.digest
        if self._manifest is not None and self._manifest["digest"] == found:
            return False
        table = self.table(progress)

        def write(folder: Path) -> dict[str, Any]:
            write_table(table, folder)
            embedder = self.embedder
            about = None
            if embedder is not None:
                about = {"name": embedder.name, "fingerprint": embedder.fingerprint, "width": embedder.width}
            counts = {"documents": len(table.entries), "chunks": len(table), "different": len(table.lexical)}
            settings = self.settings.to_mapping()
            return {"keeps": __version__, "digest": found, "settings": settings, "encoder": about, **counts}

        before = self._manifest["version"] if self._manifest is not None else None
        self._manifest = write_version(self.folder, before, write)
        return True

    # --- reading ----------------------------------------------------------------------------------

    @property
    def digest(self) -> str:
        """Hash of all documents (32 hexadecimal digits); the same documents give the same, in whatever order added."""
        return digest(*(part for name in self for part in (name, self.digest_of(name) or "")))

    def get(self, id: str) -> Document:  # noqa: A002
        """A document.

        Raises:
            UnknownNameError: there is none of this id.
        """
        found = self._known(id)
        if found is None:
            raise UnknownNameError(f'there is no document "{id}"', where="Corpus.get", mend=nearest(id, self))
        return found

    def digest_of(self, id: str) -> str | None:  # noqa: A002
        """:attr:`Document.digest` of a document, without reading its text; None if there is none of this id."""
        if id in self._changes:
            document = self._changes[id]
            return None if document is None else document.digest
        number = self._table.numbers.get(id)
        return None if number is None else self._table.entries[number].digest

    def damaged(self) -> list[str]:
        """Ids of chunks whose stored text is not the one that was indexed."""
        table = self.table()
        return [table.chunk_id(row) for row in range(len(table)) if not table.is_whole(row)]

    def __len__(self) -> int:
        return len(self.table())

    def __contains__(self, name: object) -> bool:
        return self.digest_of(str(name)) is not None

    def __iter__(self) -> Iterator[str]:
        names = [entry.id for entry in self._table.entries if entry.id not in self._changes]
        return iter(sorted([*names, *(name for name, document in self._changes.items() if document is not None)]))

    def _known(self, name: str) -> Document | None:
        if name in self._changes:
            return self._changes[name]
        number = self._table.numbers.get(name)
        if number is None:
            return None
        entry = self._table.entries[number]
        return Document(name, self._table.text(number), entry.title, entry.meta)

    def _same(self, document: Document) -> bool:
        return self.digest_of(document.id) == document.digest
