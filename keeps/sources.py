"""What outside knowledge looks like to a method: passages that were found, and the contract of methods that use them.

Like ``keeps.contracts`` this file knows no tensor library, so that every room of the house can import it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from keeps.contracts import Answerer, Run

if TYPE_CHECKING:
    from keeps.settings import Settings

READERS: Mapping[str, str] = {  # what methods look into, with one that does; the first of what is given decides
    "pairs": "qa_memory",
    "cards": "knowledge_cards",
    "tables": "hybrid_dialog",
    "graph": "kg_search",
    "documents": "rag",
}


def reader_of(given: Collection[str]) -> str:
    """The method that answers where none is named.

    >>> reader_of({"documents"}), reader_of({"documents", "tables"}), reader_of(())
    ('rag', 'hybrid_dialog', 'rag')

    Args:
        given: keys of :data:`READERS`: what there is to look into.
    """
    return next((method for name, method in READERS.items() if name in given), READERS["documents"])


@dataclass(frozen=True)
class Hit:
    """A passage that was found for a query, best first in a list of them.

    Attributes:
        id: of the chunk, ``document#start-end``; stable as long as the document's text is.
        text: the chunk, as it stands in the document between ``span``.
        score: higher is better; comparable within one list only.
        document: id of the document.
        span: first character and the one after the last, in the document's text.
        title: of the document; may be empty.
        ranks: place of the chunk in each list that was fused, from 1: ``{"bm25": 3, "dense": 1}``.
    """

    id: str
    text: str
    score: float
    document: str
    span: tuple[int, int]
    title: str = ""
    ranks: Mapping[str, int] = field(default_factory=dict)


@runtime_checkable
class Retriever(Protocol):
    """Anything that finds passages."""

    def search(self, query: str, k: int) -> list[Hit]:
        """At most ``k`` passages, best first, none twice; an empty list where nothing fits."""
        ...


@runtime_checkable
class GroundMethod(Protocol):
    """A way to answer with outside knowledge; no weight changes. One file, one class."""

    settings: Settings

    def __init__(self, settings: Settings) -> None: ...

    def __call__(self, model: Any, source: Any = None, *, run: Run) -> Answerer:
        """What answers with ``model`` and ``source``.

        Args:
            model: a LanguageModel, or any Chat where the method's ``fits`` has ``"chat"``.
            source: what the method's ``needs`` names: ``"documents"`` (a :class:`Retriever`), ``"graph"`` (a
                ``keeps.graphs.KnowledgeGraph``), ``"pairs"`` (questions and answers), ``"tables"`` (a
                ``keeps.data.entities.EntityBase``).
            run: seed, device, progress.

        Returns:
            An Answerer. The contexts given to its ``answer(questions, contexts)`` are read instead of what would
            be retrieved, where the method reads passages.
        """
        ...
