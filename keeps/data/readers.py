"""Read records from a file or from a data set of the datasets library.

Every problem is an error that names the file, the line, the column and the mend; nothing is skipped,
cut or repaired in silence.
"""

from __future__ import annotations

import difflib
import stat
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from keeps.data.columns import record_of
from keeps.data.formats import ROWS
from keeps.data.hub import hub_rows
from keeps.data.records import Record, RecordSet
from keeps.data.rows import Row, path_mode
from keeps.errors import EmptySetError, InputFileError, RecordError, nearest

HUB = "hf:"


def read_records(path: Path | str, *, limit: int | None = None) -> RecordSet:
    """The records of a file (JSONL, JSON, CSV, TSV, Parquet, TXT), or of ``hf:ID[:split[:config]]``.

    Args:
        path: the file, or the id of a data set after ``hf:``.
        limit: read only the first so many rows.

    Raises:
        InputFileError: the file is missing, unreadable, damaged, or not of the format of its name.
        RecordError: a row lacks a column, has a wrong or empty value, or the id of another row.
        EmptySetError: there is no row.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "facts.csv"
    ...     _ = file.write_text("prompt,answer\\nThe capital of Norway is,Oslo\\n")
    ...     read_records(file).records[0].answer
    'Oslo'
    """
    name = str(path)
    rows = hub_rows(name.removeprefix(HUB)) if name.startswith(HUB) else file_rows(Path(path))
    if limit is not None and limit < 1:
        raise InputFileError(f"the limit is {limit} rows", where=name, mend="choose at least 1, or none")
    records = tuple(_numbered(islice(rows, limit)))
    if not records:
        raise EmptySetError("there is no record in it", where=name, mend="add at least one row")
    return RecordSet(name, records)


def file_rows(path: Path) -> Iterator[Row]:
    """The rows of a file of any format that is read here.

    Raises:
        InputFileError: the file is missing, unreadable, damaged, or not of the format of its name.
    """
    mode = path_mode(path)
    if mode is None:
        raise InputFileError("there is no such file", where=str(path), mend=_alike(path))
    if stat.S_ISDIR(mode):
        such_as = f", such as {_files_in(path)[0]}" if _files_in(path) else ""
        raise InputFileError("this is a folder", where=str(path), mend=f"name a file in it{such_as}")
    if not stat.S_ISREG(mode):
        raise InputFileError("this is no regular file", where=str(path), mend="save the data in a file first")
    read = ROWS.get(path.suffix.lower())
    if read is None:
        known = ", ".join(ROWS)
        shown = f'the ending "{path.suffix}"' if path.suffix else "a name without ending"
        raise InputFileError(f"{shown} is no known format", where=str(path), mend=f"use one of {known}")
    return read(path)


def _alike(path: Path) -> str:
    close = difflib.get_close_matches(path.name, _files_in(path.parent), n=3, cutoff=0.6)
    return nearest(path.name, close) if close else "check the name and the folder"


def _files_in(folder: Path) -> list[str]:
    """Names of the readable kinds of files in a folder; none where it cannot be listed."""
    try:
        return sorted(item.name for item in folder.iterdir() if item.suffix.lower() in ROWS)
    except OSError:
        return []


def _numbered(rows: Iterable[Row]) -> Iterator[Record]:
    """Records with unique ids: a given id may stand once, equal content without ids is numbered."""
    places: dict[str, str] = {}
    for row in rows:
        record = record_of(row)
        if record.id in places and row.values.get("id") is not None:
            raise RecordError(
                f'the id "{record.id}" stands twice, first at {places[record.id]}',
                where=row.place,
                mend="give each row its own id, or none",
            )
        identity, number = record.id, 1
        while identity in places:
            number += 1
            identity = f"{record.id}-{number}"
        places[identity] = row.place
        yield replace(record, id=identity)
