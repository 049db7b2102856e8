"""Tables of entities as users name them, and documents that belong to the entities which they name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keeps.contracts import Progress, SilentProgress
from keeps.data.entities import EntityBase, EntityDocument
from keeps.data.entity_files import read_entities
from keeps.errors import SettingsError
from keeps.numerics.dialog_scores import plain
from keeps.registry import MethodInfo
from keeps.retrieval.documents import Document
from keeps.retrieval.reading import read_documents


def open_tables(tables: Any, docs: Any = None, *, progress: Progress | None = None) -> EntityBase | None:
    """The entities of ``tables``, with the documents of the folder ``docs`` that name them; None where none are given.

    Args:
        tables: a file, a folder, several with commas between them, or entities as they are.

    Raises:
        SettingsError: ``docs`` is a retriever, of which nobody can say which document is about what.
        KeepsError: a file is missing, damaged or empty.
    """
    if tables is None:
        return None
    base = tables if isinstance(tables, EntityBase) else read_entities(tables)
    if docs is None:
        return base
    if not isinstance(docs, (str, Path)):
        mend = "name a folder or file of documents"
        raise SettingsError("documents about entities cannot come from a retriever", where="docs", mend=mend)
    progress = progress or SilentProgress()
    found = read_documents(docs, progress=progress)
    base, left = with_named(base, found.documents)
    if left or found.skipped:
        skipped = "; ".join(f"{item.path}: {item.reason}" for item in found.skipped[:3])
        text = f"warning: {left} documents name no entity of the tables, and {len(found.skipped)} files are not read"
        progress.message(f"{text} ({skipped})" if skipped else text)
    return base


def with_named(base: EntityBase, documents: Sequence[Document]) -> tuple[EntityBase, int]:
    """``base`` with each document at the entities whose names stand in its title, or else in its text.

    Of names that contain each other the longer one counts. The number is that of documents which name none.
    """
    names = {entity.id: f" {plain(entity.name)} " for entity in base}
    found: dict[str, list[EntityDocument]] = {}
    left = 0
    for document in documents:
        places = (f" {plain(document.title or Path(document.id).stem)} ", f" {plain(document.text)} ")
        about = next(filter(None, ([key for key, name in names.items() if name in text] for text in places)), [])
        whole = [key for key in about if not any(names[key] in names[o] and names[key] != names[o] for o in about)]
        for key in whole:
            found.setdefault(key, []).append(EntityDocument(document.title, document.text))
        left += not whole
    return base.with_documents(found), left


def documents_to_search(docs: Any, methods: Sequence[MethodInfo], *, tables: bool) -> Any:
    """``docs`` where a method searches in them; beside tables they may be there for the entities alone."""
    return docs if not tables or any("documents" in info.needs for info in methods) else None
