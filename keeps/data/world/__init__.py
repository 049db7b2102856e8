"""The built-in world: facts with several wordings, aliases and provenance, that need no file.

The facts are read at run time from data packages (the extra ``world``), and each is marked known,
uncertain or unknown to the default model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from keeps.data.records import Fact, RecordSet
from keeps.data.world.cities import RELATION as CITY_RELATION
from keeps.data.world.cities import city_facts
from keeps.data.world.countries import RELATIONS as COUNTRY_RELATIONS
from keeps.data.world.countries import country_facts
from keeps.data.world.elements import RELATIONS as ELEMENT_RELATIONS
from keeps.data.world.elements import element_facts
from keeps.data.world.marks import (
    MARKS,
    default_marks,
    few_shot_examples,
    few_shot_prompt,
    mark_of,
    read_marks,
    write_marks,
)
from keeps.data.world.templates import NUMERIC_RELATIONS, SEEN_WORDINGS
from keeps.data.world.wordnet import RELATION as HYPERNYM
from keeps.data.world.wordnet import hypernym_facts
from keeps.errors import UnknownNameError, nearest

RELATIONS: tuple[str, ...] = (*COUNTRY_RELATIONS, *ELEMENT_RELATIONS, CITY_RELATION)
"""The relations of ``world``; ``hypernym`` is asked for by name, since WordNet may not be installed."""

__all__ = [
    "HYPERNYM",
    "MARKS",
    "NUMERIC_RELATIONS",
    "RELATIONS",
    "SEEN_WORDINGS",
    "default_marks",
    "few_shot_examples",
    "few_shot_prompt",
    "mark_of",
    "read_marks",
    "relation_facts",
    "world_facts",
    "write_marks",
]


def world_facts(*, marks: Mapping[str, str] | None = None) -> RecordSet:
    """All facts of :data:`RELATIONS`, marked.

    Args:
        marks: fact id -> mark; the shipped marks of the default model when None.

    Raises:
        MissingDependencyError: a data package is not installed.

    >>> facts = world_facts(marks={})
    >>> next(fact.answers for fact in facts if fact.id == "world:capital:norway")
    ('Oslo',)
    """
    chosen = default_marks() if marks is None else marks
    return RecordSet("world", tuple(fact for name in RELATIONS for fact in relation_facts(name, marks=chosen)))


def relation_facts(relation: str, *, marks: Mapping[str, str] | None = None) -> tuple[Fact, ...]:
    """The facts of one relation, ``hypernym`` included, marked; only its own source is read.

    Raises:
        UnknownNameError: there is no such relation; the nearest names are listed.
        MissingDependencyError: its data package, or WordNet, is not installed.
    """
    known = (*RELATIONS, HYPERNYM)
    if relation not in known:
        raise UnknownNameError(f'the world has no relation "{relation}"', mend=nearest(relation, known))
    chosen = default_marks() if marks is None else marks
    facts = (fact for fact in _source(relation) if fact.relation == relation)
    return tuple(replace(fact, mark=chosen.get(fact.id, "")) for fact in facts)


def _source(relation: str) -> tuple[Fact, ...]:
    if relation in COUNTRY_RELATIONS:
        return country_facts()
    if relation in ELEMENT_RELATIONS:
        return element_facts()
    return city_facts() if relation == CITY_RELATION else hypernym_facts()
