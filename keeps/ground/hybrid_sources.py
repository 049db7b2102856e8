"""From which cell of a table or which document each value of a reply comes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from keeps.data.entities import NAME, Entity
from keeps.ground.passages import supports
from keeps.numerics.dialog_scores import SlotValue, find_values, plain

EXACT = 101.0  # a likeness in per cent that nothing reaches


@dataclass(frozen=True)
class Used:
    """A value of a reply.

    Attributes:
        slot, value: in plain form; empty of a document that supports the reply as a whole.
        source: ``domain/name#slot`` of a cell, ``domain/name#doc3`` of a document.
        title: of the document, or the slot.
        text: the document, or the value in the cell.
    """

    slot: str
    value: str
    source: str
    title: str
    text: str


def entity_values(entity: Entity | None) -> set[SlotValue]:
    """All slots and values of an entity in plain form, its name among them, wherever they lie; none of no entity."""
    if entity is None:
        return set()
    return {(NAME, plain(entity.name)), *((slot, plain(value)) for slot, value in entity.facts())}


def used_values(
    text: str, entity: Entity | None, ontology: Mapping[str, Iterable[str]], question: str
) -> tuple[list[Used], set[SlotValue]]:
    """The values of a reply with their sources, and those that the entity does not have.

    A document counts too where it holds every word of the reply that the question lacks, as free text has no slots.
    Values that the user said are no invention of the reply. Values must stand as they are: a telephone number that is
    nearly the entity's is not its number.
    """
    found = find_values(text, _own_first(ontology, entity), fuzzy=EXACT)
    own = entity_values(entity)
    asked = {value for _, value in find_values(question, ontology, fuzzy=EXACT)}
    invented = {pair for pair in found - own if pair[1] not in asked}
    if entity is None:
        return [], invented
    used = [_used(slot, value, entity) for slot, value in sorted(found & own) if slot != NAME]
    cited = {item.source for item in used}
    for number, document in enumerate(entity.documents, 1):
        source = f"{entity.id}#doc{number}"
        if source not in cited and supports(document.body, text, question):
            used.append(Used("", "", source, document.title, document.body))
    return used, invented


def _own_first(ontology: Mapping[str, Iterable[str]], entity: Entity | None) -> dict[str, Iterable[str]]:
    """``ontology`` so that a value of several slots counts as the entity's own slot."""
    own = sorted(entity_values(entity))
    order = [*dict.fromkeys(slot for slot, _ in own), *ontology]
    mine = {slot: [value for name, value in own if name == slot] for slot in order}
    theirs = {value for values in mine.values() for value in values}
    return {
        slot: [*mine[slot], *(v for v in ontology.get(slot, ()) if plain(v) not in theirs)]
        for slot in dict.fromkeys(order)
    }


def _used(slot: str, value: str, entity: Entity) -> Used:
    for number, document in enumerate(entity.documents, 1):
        if (slot, value) in {(name, plain(text)) for name, text in document.states}:
            return Used(slot, value, f"{entity.id}#doc{number}", document.title, document.body)
    return Used(slot, value, f"{entity.id}#{slot}", slot, value)
