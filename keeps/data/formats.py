"""File formats, each as one generator of rows: JSONL, JSON, CSV, TSV, Parquet and plain text."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from keeps.data.rows import Row, lines, unreadable
from keeps.errors import InputFileError, MissingDependencyError


def jsonl_rows(path: Path) -> Iterator[Row]:
    """One JSON object a line; blank lines are skipped."""
    for number, line in lines(path):
        if line.strip():
            place = f"{path}, line {number}"
            yield Row(_object(_parsed(line, path, number), place), place)


def json_rows(path: Path) -> Iterator[Row]:
    """An array of JSON objects; the place of a row is the line on which its object begins."""
    text = "".join(line for _, line in lines(path))
    at, line = _past_space(text, 0), 1
    if at == len(text):
        return
    if text[at] != "[":
        raise InputFileError(
            "the file is not a JSON array",
            where=f"{path}, line {text.count(chr(10), 0, at) + 1}",
            mend="put the objects between [ and ], or name the file .jsonl if each line is an object",
        )
    decoder, counted = _decoder(), 0
    at = _past_space(text, at + 1)
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        place = f"{path}, line {line}"
        value, at = _parsed_at(decoder, text, at, path, line)
        yield Row(_object(value, place), place)
        at = _past_space(text, at)
        if text[at : at + 1] == ",":
            comma, at = at, _past_space(text, at + 1)
            if text[at : at + 1] == "]":
                place = f"{path}, line {text.count(chr(10), 0, comma) + 1}"
                raise InputFileError("a comma stands before the closing ]", where=place, mend="take it out")
        elif text[at : at + 1] != "]":
            place = f"{path}, line {text.count(chr(10), 0, at) + 1}"
            raise InputFileError("a comma or ] is missing after an object", where=place, mend="add it")
    rest = _past_space(text, at + 1)
    if rest < len(text):
        place = f"{path}, line {text.count(chr(10), 0, rest) + 1}"
        raise InputFileError("something follows the closing ]", where=place, mend="keep one array in the file")


def csv_rows(path: Path) -> Iterator[Row]:
    """Comma-separated values with a header line, quoted as by spreadsheets."""
    return _separated(path, ",")


def tsv_rows(path: Path) -> Iterator[Row]:
    """Tab-separated values with a header line."""
    return _separated(path, "\t")


def text_rows(path: Path) -> Iterator[Row]:
    """One passage a paragraph; paragraphs are separated by blank lines."""
    paragraph: list[str] = []
    first = 1
    for number, line in lines(path):
        if line.strip():
            first = number if not paragraph else first
            paragraph.append(line)
        elif paragraph:
            yield Row({"text": "".join(paragraph).strip()}, f"{path}, line {first}")
            paragraph = []
    if paragraph:
        yield Row({"text": "".join(paragraph).strip()}, f"{path}, line {first}")


def parquet_rows(path: Path) -> Iterator[Row]:
    """Rows of a Parquet file, batch by batch; the place of a row is its number."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        what = "reading Parquet needs pyarrow"
        raise MissingDependencyError(what, where=str(path), mend="pip install pyarrow") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values, f"{path}, row {number}")
    except OSError as error:
        if not isinstance(error, arrow.ArrowException) and error.errno is not None:
            raise unreadable(path, error) from None
        raise _damaged(path, error) from None
    except arrow.ArrowException as error:
        raise _damaged(path, error) from None


ROWS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": jsonl_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".tsv": tsv_rows,
    ".parquet": parquet_rows,
    ".txt": text_rows,
}


def _damaged(path: Path, error: Exception) -> InputFileError:
    reason = " ".join(str(error).split()).split(".")[0]
    what = f"this is no Parquet file, or a damaged one ({reason})"
    return InputFileError(what, where=str(path), mend="write it again")


def _separated(path: Path, separator: str) -> Iterator[Row]:
    reader = csv.reader((line for _, line in lines(path)), delimiter=separator, strict=True)
    start = 1
    header: list[str] | None = None
    try:
        for cells in reader:
            place, start = f"{path}, line {start}", reader.line_num + 1
            if not any(cell.strip() for cell in cells) and len(cells) <= 1:
                continue
            if header is None:
                header = _header(cells, place)
                continue
            if len(cells) != len(header):
                raise InputFileError(
                    f"the row has {len(cells)} cells, the header has {len(header)}",
                    where=place,
                    mend="put cells that contain the separator between double quotes",
                )
            yield Row(dict(zip(header, cells, strict=True)), place)
    except csv.Error as error:
        place = f"{path}, line {start}"
        raise InputFileError(f"the row cannot be read ({error})", where=place, mend="check its double quotes") from None


def _header(cells: list[str], place: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if "" in names:
        raise InputFileError(f"column {names.index('') + 1} has no name", where=place, mend="name it in the header")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputFileError(f'two columns are called "{twice}"', where=place, mend="rename one of them")
    return names


def _past_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=_no_key_twice, parse_constant=_no_constant)


def _parsed(text: str, path: Path, line: int) -> Any:
    value, end = _parsed_at(_decoder(), text, _past_space(text, 0), path, line)
    if text[end:].strip():
        where, mend = f"{path}, line {line}", "put one object on each line, or name the file .json if it is one array"
        raise InputFileError("something follows the JSON object", where=where, mend=mend)
    return value


def _parsed_at(decoder: json.JSONDecoder, text: str, at: int, path: Path, line: int) -> tuple[Any, int]:
    """The JSON value that begins at ``at``, on the given line, and where it ends."""
    try:
        return decoder.raw_decode(text, at)
    except json.JSONDecodeError as error:
        first = text.rfind("\n", 0, error.pos) + 1
        reason = f"{error.msg[0].lower()}{error.msg[1:]} at character {error.pos - first + 1}"
        mend = "check commas, double quotes and brackets there"
        where = f"{path}, line {line + text.count(chr(10), at, error.pos)}"
        raise InputFileError(f"the JSON is not valid ({reason})", where=where, mend=mend) from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputFileError(
            f"the JSON is not valid ({reason})", where=f"{path}, line {line}", mend="correct it"
        ) from None


def _object(value: Any, place: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    kind = {list: "an array", str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")
    mend = 'write each row as an object such as {"prompt": "The capital of Norway is", "answer": "Oslo"}'
    raise InputFileError(f"the row is {kind}, not an object", where=place, mend=mend)


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'the key "{twice}" stands twice in one object')
    return values


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON value")
