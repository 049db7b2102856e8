"""Entities whose facts lie in a table and in documents, and the one text that shows both.

An entity has slots with values and documents (questions with answers, reviews). Whoever reads its text need not know
which fact lies where::

    <db> <slot> name <value> alpha lodge <slot> area <value> north <kb> <doc> <doc_title> Parking? <doc_body> Yes.

A list of values is ``<list_value> a <list_value> b``, a table in a table ``<dict_slot> single <dict_value> 50``
(Mishra et al. 2023, arXiv:2210.07295).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

from keeps.errors import EmptySetError, RecordError, UnknownNameError, nearest

Value = str | tuple[str, ...] | Mapping[str, str]
NAME = "name"
ANY = frozenset({"", "dontcare", "don't care", "do not care", "any", "not mentioned", "none", "?"})
_MARK = re.compile(
    r"<(/?)(db|kb|slot|value|list_value|dict_slot|dict_value|doc|doc_topic|doc_title|doc_body|user|system|response"
    r"|entity_label|entity_explanation)>"
)


@dataclass(frozen=True)
class EntityDocument:
    """A text about one entity.

    Attributes:
        states: slots and values that were moved out of the table into this document; empty of documents as they came.
    """

    title: str
    body: str
    topic: str = ""
    states: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Entity:
    """One row of a table, with what documents say about it; ``name`` is unique in its domain."""

    domain: str
    name: str
    slots: Mapping[str, Value] = field(default_factory=dict)
    documents: tuple[EntityDocument, ...] = ()

    @property
    def id(self) -> str:
        """``domain/name``."""
        return f"{self.domain}/{self.name}"

    def values(self) -> Iterator[tuple[str, str]]:
        """Slots and values in the table without the name; the parts of a list or a table one by one."""
        for slot, value in self.slots.items():
            if isinstance(value, Mapping):
                yield from ((f"{slot} {part}", text) for part, text in value.items())
            else:
                yield from ((slot, text) for text in ((value,) if isinstance(value, str) else value))

    def facts(self) -> set[tuple[str, str]]:
        """Slots and values in the table and, where they were moved, in documents."""
        return {*self.values(), *(fact for document in self.documents for fact in document.states)}

    def has(self, slot: str, value: str) -> bool:
        """Whether the table says so, without regard to case and blanks."""
        wanted = folded(value)
        if slot == NAME:
            return folded(self.name) == wanted
        return any(name == slot and folded(found) == wanted for name, found in self.values())

    def text(self, documents: int | None = None) -> str:
        """The serialised entity with at most so many of its documents; marks in values are made harmless."""
        table = [f"<slot> {NAME} <value> {harmless_marks(self.name)}"]
        table += [f"<slot> {harmless_marks(slot)} {_shown(value)}" for slot, value in self.slots.items()]
        shown = self.documents[:documents]
        return " ".join(["<db>", *table, *(["<kb>"] if shown else []), *map(_document, shown)])


def folded(text: str) -> str:
    """``text`` without case, with single blanks."""
    return " ".join(text.casefold().split())


def harmless_marks(text: str) -> str:
    """``text`` on one line in which no mark of the serialisation stands: what was read stays data.

    >>> harmless_marks("nice <db> view")
    'nice ‹db› view'
    """
    return _MARK.sub(r"‹\1\2›", " ".join(text.split()))


def _shown(value: Value) -> str:
    if isinstance(value, str):
        return f"<value> {harmless_marks(value)}"
    if isinstance(value, Mapping):
        parts = (f"<dict_slot> {harmless_marks(k)} <dict_value> {harmless_marks(v)}" for k, v in value.items())
        return " ".join(["<value>", *parts])
    return " ".join(["<value>", *(f"<list_value> {harmless_marks(item)}" for item in value)])


def _document(document: EntityDocument) -> str:
    marks = {"topic": document.topic, "title": document.title, "body": document.body}
    return " ".join(["<doc>", *(f"<doc_{k}> {harmless_marks(text)}" for k, text in marks.items() if text)])


@dataclass(frozen=True)
class EntityBase:
    """All entities of an assistant.

    Raises:
        EmptySetError: there is none.
        RecordError: a name is empty or not unique in its domain.
    """

    entities: tuple[Entity, ...]
    source: str = "entities"

    def __post_init__(self) -> None:
        if not self.entities:
            raise EmptySetError("there is no entity", where=self.source, mend="give at least one row with a name")
        seen: set[tuple[str, str]] = set()
        for entity in self.entities:
            key = (folded(entity.domain), folded(entity.name))
            if not key[1] or key in seen:
                what = f'the {entity.domain or "entity"} "{entity.name}" stands twice' if key[1] else "a name is empty"
                raise RecordError(what, where=self.source, mend="give each entity of a domain its own name")
            seen.add(key)

    def __len__(self) -> int:
        return len(self.entities)

    def __iter__(self) -> Iterator[Entity]:
        return iter(self.entities)

    @cached_property
    def by_id(self) -> dict[str, Entity]:
        """Entities by ``domain/name``."""
        return {entity.id: entity for entity in self.entities}

    def find(self, domain: str, name: str) -> Entity:
        """The entity of a name.

        Raises:
            UnknownNameError: there is none in the domain.
        """
        own = [entity for entity in self.entities if entity.domain == domain]
        for entity in own:
            if folded(entity.name) == folded(name):
                return entity
        mend = nearest(name, [entity.name for entity in own])
        raise UnknownNameError(f'there is no {domain or "entity"} "{name}"', where=self.source, mend=mend)

    def of(self, domain: str) -> list[Entity]:
        """The entities of a domain; all where it is empty."""
        return [entity for entity in self.entities if not domain or entity.domain == domain]

    def matching(self, domain: str, belief: Mapping[str, str]) -> list[Entity]:
        """Entities whose table meets every constraint; what does not matter to the user is left out.

        So are slots that no entity of the domain has, neither in the table nor moved to a document: how many people a
        table is booked for rules nothing out. A belief without any constraint says nothing and is met by none.
        """
        known = self.slots(domain)
        wanted = {slot: value for slot, value in belief.items() if slot in known and folded(value) not in ANY}
        if not wanted:
            return []
        return [e for e in self.of(domain) if all(e.has(slot, value) for slot, value in wanted.items())]

    def slots(self, domain: str = "") -> frozenset[str]:
        """Slots that some entity has, wherever its value lies; the name is one."""
        if domain not in self._slots:
            own = (entity.facts() for entity in self.of(domain))
            self._slots[domain] = frozenset([NAME, *(slot for facts in own for slot, _ in facts)])
        return self._slots[domain]

    @cached_property
    def _slots(self) -> dict[str, frozenset[str]]:
        return {}

    def ontology(self, domain: str = "") -> dict[str, set[str]]:
        """Every value of every slot, names too, wherever it lies."""
        found: dict[str, set[str]] = {NAME: set()}
        for entity in self.of(domain):
            found[NAME].add(entity.name)
            for slot, value in entity.facts():
                found.setdefault(slot, set()).add(value)
        return found

    def facts(self) -> set[tuple[str, str, str]]:
        """``(entity id, slot, value)`` of table and documents together."""
        return {(entity.id, slot, value) for entity in self.entities for slot, value in entity.facts()}

    @property
    def fingerprint(self) -> str:
        """Hash of the contents (16 hexadecimal digits)."""
        rows = [asdict(replace(entity, slots=dict(entity.slots))) for entity in self.entities]
        return hashlib.sha256(json.dumps(rows, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]

    def with_documents(self, documents: Mapping[str, Sequence[EntityDocument]]) -> EntityBase:
        """The same entities with further documents, by entity id."""
        more = [replace(e, documents=(*e.documents, *documents.get(e.id, ()))) for e in self.entities]
        return replace(self, entities=tuple(more))
