"""Move facts from tables into documents, to see whether an assistant learned where each fact lies.

Three variants of the same knowledge (Mishra et al. 2023, arXiv:2210.07295): ``moved_slots`` puts whole slots into
documents, as data sets do; ``relocated`` moves slot values one by one so that as many utterances as possible speak of
both sources (HybridToD); ``unstructured`` moves all of them, and the table holds names only. What is said in the
conversations stays as it is, and so does the union of table and documents.

For the second, slot values are nodes, the number of utterances that name both is the weight of an edge, and one side
of a large cut moves. The largest cut is NP-hard: see :mod:`keeps.numerics.max_cut` for what is guaranteed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from keeps.data.entities import Entity, EntityBase, EntityDocument, Value
from keeps.data.entity_dialogs import Reply
from keeps.errors import RecordError
from keeps.numerics.dialog_scores import find_values, plain
from keeps.numerics.max_cut import cut_weight, max_cut
from keeps.weights.files import atomic_write_bytes

SlotValueNode = tuple[str, str, str]  # domain, slot, value in plain form
Chosen = Callable[[Entity, str, str], bool]


@dataclass(frozen=True)
class Template:
    """How a fact is told: a question as title, and sentences of which each entity gets one.

    Attributes:
        bodies: with ``{name}`` and ``{value}``; of slots that are yes or no, those for yes.
        no: the sentence for no; ``{value}`` is not needed then.

    Raises:
        RecordError: a sentence does not state the value.
    """

    title: str
    bodies: tuple[str, ...]
    no: str = ""

    def __post_init__(self) -> None:
        if not self.bodies or not (self.no or all("{value}" in body for body in self.bodies)):
            mend = "write {value} into each sentence, or give a sentence for no"
            raise RecordError("the template does not state the value", where=self.title, mend=mend)

    def document(self, entity: Entity, slot: str, value: str) -> EntityDocument:
        """The fact as a document of ``entity``."""
        if self.no and plain(value) == "no":
            body = self.no
        else:
            key = hashlib.sha256(f"{entity.id}:{slot}".encode()).digest()
            body = self.bodies[key[0] % len(self.bodies)]
        texts = (text.replace("{name}", entity.name).replace("{value}", value) for text in (self.title, body))
        return EntityDocument(*texts, states=((slot, value),))


def _told(title: str, *bodies: str, no: str = "") -> Template:
    return Template(title, bodies, no)


TEMPLATES: Mapping[str, Template] = {
    "address": _told("Where is it?", "{name} stands at {value}.", "You find {name} at {value}."),
    "area": _told("Which part of town is it in?", "{name} lies in the {value} of town.", "It is in the {value}."),
    "entrance fee": _told("What does it cost to get in?", "Entrance costs {value}."),
    "food": _told("What kind of food is served?", "The kitchen of {name} is {value}.", "They cook {value} dishes."),
    "internet": _told("Is there internet?", "Yes, guests get online for free.", no="No, guests cannot get online."),
    "openhours": _told("When is it open?", "{name} is open {value}."),
    "parking": _told("Can I park there?", "Yes, there is room for cars.", no="No, there is no room for cars."),
    "phone": _told("How can I call?", "You can reach {name} on {value}.", "Dial {value} to speak to {name}."),
    "postcode": _told("What is the postcode?", "Letters to {name} need the postcode {value}."),
    "price double": _told("What is a room for two?", "A room for two costs {value} pounds a night."),
    "price family": _told("What is a room for a family?", "A room for a family costs {value} pounds a night."),
    "price single": _told("What is a room for one?", "A room for one costs {value} pounds a night."),
    "pricerange": _told("Is it expensive?", "Prices at {name} are {value}.", "Guests call its prices {value}."),
    "signature": _told("What is it known for?", "{name} is known for its {value}."),
    "stars": _told("How many stars has it?", "{name} was given {value} stars."),
    "takesbookings": _told("Do they take bookings?", "Yes, you can book ahead.", no="No, they take no bookings."),
    "type": _told("What kind of place is it?", "{name} is a {value}."),
}


@dataclass(frozen=True)
class Relocation:
    """A variant of the knowledge and how it came about.

    Attributes:
        moved: slot values that lie in documents now; ``kept`` those in the table.
        cut, total: weight across the two and of all edges.
    """

    base: EntityBase
    moved: tuple[SlotValueNode, ...]
    kept: tuple[SlotValueNode, ...]
    cut: float
    total: float

    def write(self, path: str | Path) -> None:
        """Record the assignment as JSON, so that the variant can be made again."""
        values = {"cut": self.cut, "total": self.total, "documents": self.moved, "table": self.kept}
        atomic_write_bytes(path, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())


def value_graph(base: EntityBase, replies: Sequence[Reply]) -> tuple[list[SlotValueNode], dict[tuple[int, int], float]]:
    """Slot values in the tables, and for each two how many utterances name both.

    The utterances of a conversation are counted once: of each reply its own and the user's turn before it.
    """
    nodes = sorted({(e.domain, slot, plain(value)) for e in base for slot, value in e.values()})
    places = {node: number for number, node in enumerate(nodes)}
    ontologies = {domain: _table_values(base, domain) for domain in {reply.domain for reply in replies}}
    weights: Counter[tuple[int, int]] = Counter()
    for reply in replies:
        for text in (reply.text, reply.history[-1][1]):
            found = find_values(text, ontologies[reply.domain])
            named = {places[(reply.domain, *pair)] for pair in found if (reply.domain, *pair) in places}
            weights.update(combinations(sorted(named), 2))
    return nodes, {edge: float(weight) for edge, weight in weights.items()}


def relocated(
    base: EntityBase,
    replies: Sequence[Reply],
    templates: Mapping[str, Template] = TEMPLATES,
    *,
    seed: int = 0,
    restarts: int = 10,
) -> Relocation:
    """Move one side of a large cut of the slot values into documents (HybridToD).

    Raises:
        RecordError: a slot has no template.
    """
    nodes, weights = value_graph(base, replies)
    sides = max_cut(weights, len(nodes), seed=seed, restarts=restarts)
    moving = {node for node, side in zip(nodes, sides, strict=True) if side}
    found = _moved(base, lambda e, slot, value: (e.domain, slot, plain(value)) in moving, templates)
    kept = tuple(node for node in nodes if node not in moving)
    return Relocation(found, tuple(sorted(moving)), kept, cut_weight(weights, sides), sum(weights.values()))


def moved_slots(base: EntityBase, slots: Sequence[str], templates: Mapping[str, Template] = TEMPLATES) -> EntityBase:
    """Move the whole of some slots into documents, the same for every entity."""
    return _moved(base, lambda _, slot, __: slot in slots, templates)


def unstructured(base: EntityBase, templates: Mapping[str, Template] = TEMPLATES) -> EntityBase:
    """Move everything; the tables hold names only.

    Raises:
        RecordError: a slot has no template.
    """
    return _moved(base, lambda *_: True, templates)


def _table_values(base: EntityBase, domain: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for entity in base.of(domain):
        for slot, value in entity.values():
            found.setdefault(slot, set()).add(value)
    return dict(sorted(found.items()))


def _moved(base: EntityBase, chosen: Chosen, templates: Mapping[str, Template]) -> EntityBase:
    missing = sorted({slot for e in base for slot, value in e.values() if chosen(e, slot, value)} - set(templates))
    if missing:
        what = f"there is no template for {', '.join(missing)}"
        raise RecordError(what, where=base.source, mend="give one for each slot, or leave the slots out of the table")
    entities = []
    for entity in base:
        moving = [(slot, value) for slot, value in entity.values() if chosen(entity, slot, value)]
        told = tuple(templates[slot].document(entity, slot, value) for slot, value in moving)
        left = {slot: _without(slot, value, set(moving)) for slot, value in entity.slots.items()}
        slots = {slot: value for slot, value in left.items() if value is not None}
        entities.append(replace(entity, slots=slots, documents=(*told, *entity.documents)))
    return replace(base, entities=tuple(entities))


def _without(slot: str, value: Value, moving: set[tuple[str, str]]) -> Value | None:
    """What is left in the table; None where nothing is."""
    if isinstance(value, str):
        return None if (slot, value) in moving else value
    if isinstance(value, Mapping):
        return {part: text for part, text in value.items() if (f"{slot} {part}", text) not in moving} or None
    return tuple(item for item in value if (slot, item) not in moving) or None
