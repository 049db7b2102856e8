"""Documents from a folder: text, Markdown, HTML, PDF, and tables of texts (JSONL, JSON, CSV, TSV, Parquet).

A document is called by its path in the folder; a row of a table by the path and its id or number. What cannot be read
is left out with the reason, and nothing outside the folder is ever read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from keeps.contracts import Progress, SilentProgress
from keeps.data.formats import ROWS
from keeps.data.rows import Row, unreadable
from keeps.errors import EmptySetError, InputFileError, KeepsError
from keeps.retrieval.documents import Document
from keeps.retrieval.extraction import html_text, markdown_title, pdf_text

LARGEST_FILE = 256 * 2**20  # bytes
TEXT_COLUMNS = ("text", "contents", "content", "passage", "body")
ID_COLUMNS = ("id", "_id", "doc_id")
ROW_ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Skipped:
    """A file that was not taken, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Reading:
    """What a folder holds.

    Attributes:
        unread: files of these paths could not be read now; documents from them may be known from before.
    """

    documents: tuple[Document, ...]
    skipped: tuple[Skipped, ...]

    @property
    def unread(self) -> frozenset[str]:
        return frozenset(item.path for item in self.skipped)


def read_documents(
    source: str | Path,
    *,
    largest: int = LARGEST_FILE,
    exclude: str | Path | None = None,
    progress: Progress | None = None,
) -> Reading:
    """The documents in a folder and the folders in it, or in one file, in order of their names.

    Names that begin with a dot are passed over. Links are followed to files inside the folder only.

    Args:
        largest: bytes of a file; larger ones are left out.
        exclude: a folder that is passed over, such as the one that the index is written to.

    Raises:
        InputFileError: there is no such file or folder.
        EmptySetError: nothing in it can be read.
    """
    root = Path(source)
    if not root.exists():
        raise InputFileError("there is no such file or folder", where=str(root), mend="check the name")
    apart = None if exclude is None else Path(exclude).resolve()
    paths = list(_files(root, apart)) if root.is_dir() else [root]
    base = root if root.is_dir() else root.parent
    documents: list[Document] = []
    skipped: list[Skipped] = []
    with (progress or SilentProgress()).task("Read files", len(paths) or 1) as task:
        for path in paths:
            name = path.relative_to(base).as_posix()
            try:
                read = _reader(path)
                _check(path, base, largest)
                documents += [document.checked() for document in read(path, name)]
            except KeepsError as error:
                skipped.append(Skipped(_shown(name), error.what))
            task.advance()
    if not documents:
        reasons = "; ".join(f"{item.path}: {item.reason}" for item in skipped[:3]) or "it is empty"
        mend = f"give .txt, .md, .html, .pdf or {', '.join(ROW_ENDINGS)} files"
        raise EmptySetError(f"there is nothing to index ({reasons})", where=str(root), mend=mend)
    return Reading(tuple(documents), tuple(skipped))


def _files(root: Path, exclude: Path | None) -> Iterator[Path]:
    for folder, folders, files in os.walk(root, followlinks=False):
        visible = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in visible if exclude is None or Path(folder, name).resolve() != exclude]
        yield from (Path(folder) / name for name in sorted(files) if not name.startswith("."))


def _check(path: Path, base: Path, largest: int) -> None:
    try:
        if path.is_symlink() and not path.resolve(strict=True).is_relative_to(base.resolve()):
            raise InputFileError("the link leads out of the folder", where=str(path), mend="copy the file")
        found = path.stat()
    except (OSError, RuntimeError):  # a dangling link, or one that leads to itself
        raise InputFileError("the link leads nowhere", where=str(path), mend="remove it") from None
    if not stat.S_ISREG(found.st_mode):
        raise InputFileError("this is no file but a device or a pipe", where=str(path), mend="remove it")
    if found.st_size > largest:
        what = f"the file has {found.st_size / 1e6:,.1f} MB, and {largest / 1e6:,.1f} MB is the most"
        raise InputFileError(what, where=str(path), mend="divide it, or raise the limit")
    if not found.st_size:
        raise InputFileError("the file is empty", where=str(path), mend="remove it")


def _reader(path: Path) -> Callable[[Path, str], list[Document]]:
    ending = path.suffix.lower()
    found = _READERS.get(ending)
    if found is None:
        raise InputFileError(f'"{ending}" files are not read', where=str(path), mend="convert it to text")
    return found


def _plain(path: Path, name: str) -> list[Document]:
    return [_document(name, _decoded(path), "", path)]


def _markdown(path: Path, name: str) -> list[Document]:
    text = _decoded(path)
    return [_document(name, text, markdown_title(text), path)]


def _html(path: Path, name: str) -> list[Document]:
    return [_document(name, *html_text(_decoded(path)), path)]


def _pdf(path: Path, name: str) -> list[Document]:
    return [_document(name, *pdf_text(_bytes(path), str(path)), path)]


def _rows(path: Path, name: str) -> list[Document]:
    """One document a row: its text, title and id by their columns, other columns as meta."""
    found = []
    for number, row in enumerate(ROWS[path.suffix.lower()](path), 1):
        columns = {str(column).strip().lower(): column for column in row.values}
        text = _cell(row, columns, TEXT_COLUMNS)
        if not text.strip():
            raise row.error("the row has no text", f'call a column "{TEXT_COLUMNS[0]}", and fill it in')
        identity, title = _cell(row, columns, ID_COLUMNS) or str(number), _cell(row, columns, ("title",))
        used = {*TEXT_COLUMNS, *ID_COLUMNS, "title"}
        meta = {
            name: row.values[column]
            for name, column in columns.items()
            if name not in used and isinstance(row.values[column], (str, int, float, bool))
        }
        found.append(Document(f"{name}:{identity}", text, title, meta))
    return found


def _cell(row: Row, columns: dict[str, str], names: tuple[str, ...]) -> str:
    column = next((columns[name] for name in names if name in columns), None)
    value = None if column is None else row.values[column]
    return "" if value is None else str(value)


def _document(name: str, text: str, title: str, path: Path) -> Document:
    if not text.strip():
        raise InputFileError("there is no text in it", where=str(path), mend="remove it")
    return Document(name, text, title[:500])


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None


def _decoded(path: Path) -> str:
    data = _bytes(path)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif b"\x00" in data:
        raise InputFileError("the file is binary: it holds NUL bytes", where=str(path), mend="remove it")
    else:
        encoding = "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        what = f"byte {error.start + 1} (0x{data[error.start]:02x}) is not {encoding.removesuffix('-sig').upper()}"
        raise InputFileError(what, where=str(path), mend="save the file again with the encoding UTF-8") from None


def _shown(name: str) -> str:
    return name.encode("utf-8", "replace").decode()


_READERS: dict[str, Callable[[Path, str], list[Document]]] = {
    **dict.fromkeys((".txt", ".text", ".rst"), _plain),
    **dict.fromkeys((".md", ".markdown"), _markdown),
    **dict.fromkeys((".html", ".htm", ".xhtml"), _html),
    ".pdf": _pdf,
    **dict.fromkeys(ROW_ENDINGS, _rows),
}
