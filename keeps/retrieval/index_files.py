"""An index as files, and back: texts, JSON lines, arrays and bm25s' own files; nothing that could run as code."""

from __future__ import annotations

import json
import mmap
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeps.errors import StorageError
from keeps.retrieval.dense import DTYPE, Vectors
from keeps.retrieval.documents import StoredEntries
from keeps.retrieval.lexical import BM25
from keeps.retrieval.settings import IndexSettings
from keeps.retrieval.table import HASH, Table
from keeps.weights.files import storage_error

TEXTS = "texts.txt"  # every text in UTF-8, without anything between them
DOCUMENTS = "documents.jsonl"
LEXICAL = "bm25"
ARRAYS = {"offsets": np.int64, "chunks": np.int64, "digests": HASH, "keys": HASH, "groups": np.int64}
PER_ROW = ("digests", "keys", "groups")
VECTORS = "vectors.npy"


def write_table(table: Table, folder: Path) -> None:
    """Write every file of an index into ``folder``, which is empty."""
    (folder / TEXTS).write_bytes(table.texts)
    lines = [json.dumps(asdict(entry), ensure_ascii=False, separators=(",", ":")) for entry in table.entries]
    (folder / DOCUMENTS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    for name in ARRAYS:
        np.save(folder / f"{name}.npy", getattr(table, name), allow_pickle=False)
    if table.vectors is not None:
        np.save(folder / VECTORS, table.vectors.rows, allow_pickle=False)
    if len(table):
        table.lexical.save(folder / LEXICAL)


def read_table(folder: Path, settings: IndexSettings, width: int | None, empty: Table) -> Table:
    """The index in ``folder``, its large files mapped into memory.

    Args:
        width: of its vectors; None for none.
        empty: an index of nothing, whose empty parts are taken where there is nothing.

    Raises:
        StorageError: a file is missing or damaged, or the files do not belong together.
    """
    try:
        entries = StoredEntries((folder / DOCUMENTS).read_bytes())
        arrays = {name: _array(folder / f"{name}.npy", kind) for name, kind in ARRAYS.items()}
        texts = _mapped(folder / TEXTS)
        vectors = None if width is None else Vectors(_array(folder / VECTORS, DTYPE, 2))
        lexical = BM25.open(folder / LEXICAL, settings.k1, settings.b) if len(arrays["chunks"]) else empty.lexical
    except OSError as error:
        raise storage_error(error, folder, "read") from None
    except (ValueError, TypeError, KeyError, EOFError, RecursionError) as error:
        what = f"the index cannot be read ({str(error)[:200]})"
        raise StorageError(what, where=str(folder), mend="make it again") from None
    table = Table(entries=entries, texts=texts, lexical=lexical, vectors=vectors, **arrays)
    if not _fits(table, width):
        raise StorageError("the files of the index do not belong together", where=str(folder), mend="make it again")
    return table


def _array(path: Path, kind: Any, dimensions: int | None = None) -> NDArray:
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    if found.dtype != np.dtype(kind) or (dimensions is not None and found.ndim != dimensions):
        raise ValueError(f"{path.name} holds another type of array")
    return np.asarray(found)  # a view without the subclass, whose every slice costs microseconds


def _mapped(path: Path) -> Any:
    with path.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""


def _fits(table: Table, width: int | None) -> bool:
    """Whether numbers of documents, chunks, groups, bytes and vectors agree, and every place lies in its text."""
    rows, chunks = len(table), table.chunks
    if chunks.ndim != 2 or chunks.shape[1] != 5 or any(len(getattr(table, name)) != rows for name in PER_ROW):
        return False
    if len(table.offsets) != len(table.entries) + 1 or table.offsets[0] != 0 or table.offsets[-1] != len(table.texts):
        return False
    if table.vectors is not None and table.vectors.rows.shape != (rows, width):
        return False
    if not rows:
        return not table.entries
    document, start, end, first, last = chunks.T
    sizes = np.diff(table.offsets)
    return bool(
        sizes.min() > 0
        and document.min() >= 0
        and document.max() < len(table.entries)
        and (np.diff(document) >= 0).all()
        and ((start >= 0) & (start < end) & (first >= 0) & (first < last) & (last <= sizes[document])).all()
        and table.groups.min() == 0
        and table.groups.max() == len(table.lexical) - 1
    )
