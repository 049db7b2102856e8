"""Published benchmark files, for the form of a claim that ``keeps reproduce NAME --data FOLDER`` runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keeps.data.rows import lines
from keeps.errors import EmptySetError, InputFileError


def published_file(data: Path, name: str) -> Path:
    """The file ``name`` (such as ``"zsre/zsre.jsonl"``) in ``data``, in that folder of it, or anywhere below it.

    Raises:
        InputFileError: there is none.
    """
    base = Path(name).name
    found = [path for path in (data / name, data / base, *sorted(data.rglob(base))) if path.is_file()]
    if not found:
        raise InputFileError(f"there is no {base}", where=str(data), mend=f"name the folder that holds {name}")
    return found[0]


def published_rows(data: Path, name: str, *needed: str) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file of ``data``; each has all keys of ``needed``.

    Raises:
        InputFileError: the file is not there, or a line is no such row.
        EmptySetError: there are no rows.
    """
    path = published_file(data, name)
    rows = list(_rows(path, needed))
    if not rows:
        raise EmptySetError("the file has no rows", where=str(path), mend="fetch it again")
    return rows


def _rows(path: Path, needed: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    mend = f"rows are JSON objects with {', '.join(needed) or 'keys'}"
    for number, line in lines(path):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputFileError(f"the line is no JSON ({error})", where=where, mend=mend) from None
        lacking = [key for key in needed if not isinstance(row, dict) or key not in row]
        if lacking or not isinstance(row, dict):
            raise InputFileError(f"the row lacks {', '.join(lacking) or 'keys'}", where=where, mend=mend)
        yield row
