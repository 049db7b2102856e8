"""Read entities from the files that assistants have: a table a domain, and documents that name an entity.

=============================================== ==================================================================
rows with                                       become
=============================================== ==================================================================
``name`` and any other columns                  an entity; each further column is a slot (``id`` and nulls are not)
``entity`` (``entity_name``) and ``body``       a document of that entity; ``title`` and ``topic`` are optional
=============================================== ==================================================================

The domain is the column ``domain``, or else the name of the file without ``db_`` (``db_hotel.jsonl``). Besides rows, a
JSON file may hold documents as ``{domain: {entity: {topic: {"title": .., "body": ..}}}}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keeps.data.entities import ANY, NAME, Entity, EntityBase, EntityDocument, Value, folded
from keeps.data.formats import ROWS
from keeps.data.readers import file_rows
from keeps.data.rows import Row, lines
from keeps.errors import EmptySetError, InputFileError

OWNERS = ("entity", "entity_name")
NO_SLOTS = frozenset({"id", "domain", NAME})


def read_entities(paths: str | Path | Sequence[str | Path], *, leave_out: Sequence[str] = ()) -> EntityBase:
    """The entities of files and folders; documents find their entity by name, whatever its case.

    An entity that only documents name has no slots. Documents of a whole domain (``entity`` is null or ``*``) belong
    to an entity that bears the domain's name.

    Args:
        paths: one, several, or several with commas between them.
        leave_out: columns that are no slots, such as ``location``.

    Raises:
        InputFileError: a file is missing, damaged or of no known format.
        RecordError: a row names no entity, or a name stands twice in a domain.
        EmptySetError: there is no entity.
    """
    named = [part.strip() for part in paths.split(",") if part.strip()] if isinstance(paths, str) else paths
    files = [file for path in ([named] if isinstance(named, Path) else named) for file in _files(Path(path))]
    rows: list[Entity] = []
    documents: dict[tuple[str, str], list[EntityDocument]] = {}
    names: dict[tuple[str, str], tuple[str, str]] = {}
    for file in files:
        for domain, owner, found in _read(file, frozenset(leave_out) | NO_SLOTS):
            key = (folded(domain), folded(owner))
            names.setdefault(key, (domain, owner))
            if isinstance(found, EntityDocument):
                documents.setdefault(key, []).append(found)
            else:
                rows.append(found)
    known = {(folded(entity.domain), folded(entity.name)) for entity in rows}
    rows += [Entity(*names[key]) for key in documents if key not in known]
    base = EntityBase(tuple(rows), ", ".join(str(path) for path in files) or "tables")
    return base.with_documents({e.id: documents.get((folded(e.domain), folded(e.name)), []) for e in base})


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(item for item in path.iterdir() if item.suffix.lower() in ROWS and item.suffix.lower() != ".txt")
    if not found:
        raise EmptySetError(
            "the folder holds no table", where=str(path), mend=f"put files of {', '.join(ROWS)} into it"
        )
    return found


def _read(path: Path, no_slots: frozenset[str]) -> Iterator[tuple[str, str, Entity | EntityDocument]]:
    """Domain, entity and what a row says."""
    if path.suffix.lower() == ".json" and path.is_file():
        text = "".join(line for _, line in lines(path))
        if text.lstrip().startswith("{"):
            yield from _nested(text, path)
            return
    default = path.stem.removeprefix("db_").removesuffix("_db")
    for row in file_rows(path):
        domain = str(row.values.get("domain") or default).strip()
        owner = next((name for name in OWNERS if name in row.values), None)
        if owner is not None and "body" in row.values:
            name = row.values[owner]
            yield domain, domain if name in (None, "", "*") else str(name), _document_of(row.values, row)
        elif NAME in row.values:
            name = row.values[NAME]
            if not isinstance(name, str) or not name.strip():
                raise row.error("the name is empty or no text", "give each entity a name", NAME)
            slots = {key: _value(value, row, key) for key, value in row.values.items() if key not in no_slots}
            known = {key: value for key, value in slots.items() if value is not None}
            yield domain, name.strip(), Entity(domain, name.strip(), known)
        else:
            raise row.error('the row has neither "name" nor "entity" and "body"', "name the entity that it is about")


def _document_of(values: Mapping[str, Any], row: Row) -> EntityDocument:
    body = values.get("body")
    if not isinstance(body, str) or not body.strip():
        raise row.error("the document is empty", "give it a text, or take it out", "body")
    return EntityDocument(str(values.get("title") or ""), body.strip(), str(values.get("topic") or ""))


def _value(value: Any, row: Row, column: str) -> Value | None:
    """A cell as the value of a slot; None where nothing is known."""
    if isinstance(value, Mapping):
        return {str(key): _text(part, row, column) for key, part in value.items()} or None
    if isinstance(value, (list, tuple)):
        return tuple(_text(part, row, column) for part in value) or None
    if value is None or folded(_text(value, row, column)) in ANY - {"none", "any"}:
        return None
    return _text(value, row, column)


def _text(value: Any, row: Row, column: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (str, int, float)):
        raise row.error("the value is neither text, number, list nor table", "write it as a text", column)
    return str(value).strip()


def _nested(text: str, path: Path) -> Iterator[tuple[str, str, EntityDocument]]:
    mend = "write {domain: {entity: {topic: {title, body}}}}, or rows with entity, title and body"
    try:
        for domain, entities in json.loads(text).items():
            for name, topics in entities.items():
                for topic, item in topics.items():
                    row = Row(item, f"{path}, {domain}, {name}, {topic}")
                    yield domain, name, _document_of({"topic": topic, **item}, row)
    except json.JSONDecodeError as error:
        raise InputFileError(f"the file is damaged ({error})", where=str(path), mend=mend) from None
    except (AttributeError, TypeError):
        raise InputFileError("the documents are not sorted by domain and entity", where=str(path), mend=mend) from None
