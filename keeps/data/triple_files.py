"""Read triples from a file: TSV, CSV, JSON, JSONL, Parquet or RDF; and the templates of their relations.

A table has columns head, relation and tail (subject, predicate and object, or h, r and t, mean the same), or
three columns without a header. Every problem is an error that names file, line and mend.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keeps.data.formats import ROWS
from keeps.data.rdf import RDF_ENDINGS, read_rdf
from keeps.data.rows import Row, lines, path_mode
from keeps.data.triples import Triple, TripleSet
from keeps.errors import EmptySetError, InputFileError

COLUMNS = {
    "head": ("head", "subject", "h", "s", "source"),
    "relation": ("relation", "predicate", "r", "p", "property"),
    "tail": ("tail", "object", "t", "o", "target"),
}
SEPARATORS = {".tsv": "\t", ".csv": ",", ".txt": "\t"}


def read_triples(
    path: str | Path,
    *,
    templates: str | Path | Mapping[str, str] | None = None,
    symmetric: Sequence[str] = (),
    inverses: Mapping[str, str] | None = None,
) -> TripleSet:
    """The triples of a file.

    Args:
        templates: relation to template, or a file of them (see :func:`read_templates`).
        symmetric, inverses: see :class:`keeps.data.triples.TripleSet`.

    Raises:
        InputFileError: the file is missing, damaged, or of no known format.
        RecordError: a part of a triple is missing or empty, or a relation has no template.
        EmptySetError: there is no triple.
        MissingDependencyError: an RDF file, and its reader is not installed.
    """
    path = Path(path)
    if isinstance(templates, (str, Path)):
        templates = read_templates(templates)
    if path_mode(path) is None:
        raise InputFileError("there is no such file", where=str(path), mend="check the name and the folder")
    if path.suffix.lower() in RDF_ENDINGS:
        triples: Sequence[Triple] = read_rdf(path)
    else:
        triples = [triple_of(row) for row in _rows(path)]
    if not triples:
        raise EmptySetError("there is no triple in it", where=str(path), mend="add at least one row")
    declared: dict[str, Any] = {"symmetric": symmetric, "inverses": inverses or {}}
    return TripleSet.of(str(path), triples, templates=templates, **declared)


def read_templates(path: str | Path) -> dict[str, str]:
    """Relation to template: a JSON object, or a table with columns relation and template.

    Raises:
        InputFileError: the file cannot be read, or is of another form.
        RecordError: a relation or template is missing, or a relation stands twice.
    """
    path = Path(path)
    if path_mode(path) is None:
        raise InputFileError("there is no such file", where=str(path), mend="check the name and the folder")
    if path.suffix.lower() == ".json":
        try:
            found = json.loads("".join(line for _, line in lines(path)))
        except ValueError as error:
            raise InputFileError(f"this is no JSON ({error})", where=str(path), mend="correct it") from None
        if isinstance(found, dict) and found and all(isinstance(text, str) for text in found.values()):
            return found
        mend = 'write it as {"plays for": "{h} plays for {t}"}'
        raise InputFileError("this is no object of relations and templates", where=str(path), mend=mend)
    read = ROWS.get(path.suffix.lower())
    if read is None:
        raise InputFileError("this is no table", where=str(path), mend="use .json, .jsonl, .csv or .tsv")
    templates: dict[str, str] = {}
    for row in read(path):
        relation, template = (_filled(row, (name,), name) for name in ("relation", "template"))
        if relation in templates:
            raise row.error(f'the relation "{relation}" stands twice', "keep one template", "relation")
        templates[relation] = template
    return templates


def triple_of(row: Row) -> Triple:
    """The triple in the columns of a row.

    Raises:
        RecordError: a part is missing or empty.
    """
    head, relation, tail = (_filled(row, names, name) for name, names in COLUMNS.items())
    return Triple(head, relation, tail)


def _filled(row: Row, names: Sequence[str], meaning: str) -> str:
    """The text of the column that has one of these names."""
    columns = {str(column).strip().lower(): column for column in row.values}
    name = next((name for name in names if name in columns), None)
    if name is None:
        listed = ", ".join(f'"{column}"' for column in list(row.values)[:6])
        raise row.error(f"there is no {meaning} among the columns {listed}", f'call a column "{names[0]}"')
    value = row.values[columns[name]]
    text = str(value).strip() if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
    if not text:
        raise row.error(f"the {meaning} is empty or no text", "fill it in, or take the row out", columns[name])
    return text


def _rows(path: Path) -> Iterator[Row]:
    ending = path.suffix.lower()
    if ending in SEPARATORS:
        return _table(path, SEPARATORS[ending])
    if ending in ROWS:
        return ROWS[ending](path)
    known = ", ".join([*ROWS, *RDF_ENDINGS])
    raise InputFileError(f'"{ending}" is no known format of triples', where=str(path), mend=f"use one of {known}")


def _table(path: Path, separator: str) -> Iterator[Row]:
    """Rows with or without a header: a first line of three cells that name nothing is a triple."""
    # Graphs in TSV have bare double quotes in names; a comma in a cell of CSV needs them.
    quoting = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    reader = csv.reader((line for _, line in lines(path)), delimiter=separator, strict=True, quoting=quoting)
    header: list[str] | None = None
    start = 1
    try:
        for cells in reader:
            place, start = f"{path}, line {start}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                names = [cell.strip().lower() for cell in cells]
                if any(name in COLUMNS["head"] for name in names) and any(name in COLUMNS["tail"] for name in names):
                    header = names
                    continue
                header = list(COLUMNS)
            if len(cells) != len(header):
                what = f"the row has {len(cells)} cells, not {len(header)}"
                mend = (
                    f"give head, relation and tail, with {'a tab' if separator == chr(9) else 'a comma'} between them"
                )
                raise InputFileError(what, where=place, mend=mend)
            yield Row(dict(zip(header, cells, strict=True)), place)
    except csv.Error as error:
        place = f"{path}, line {start}"
        raise InputFileError(f"the row cannot be read ({error})", where=place, mend="check its double quotes") from None
