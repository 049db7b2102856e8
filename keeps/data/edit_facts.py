"""Edits made from facts: another object of the same relation, and questions that show what else changes with it.

A fact that says where a city lies has consequences: whoever learns that the city lies in another country should
give that country's capital for it. Such questions are composed of two facts, and are kept only where the edit
changes their answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from keeps.data.edits import Edit, EditPrompt
from keeps.data.records import Fact
from keeps.errors import EmptySetError

NEIGHBOURS = 3  # prompts of other subjects, and of other relations of the subject, an edit
HOP = "country_of_city"  # the relation whose consequences are asked
HOPS: Mapping[str, str] = MappingProxyType(
    {
        "capital": "The capital of the country in which the city of {x} lies is",
        "continent": "The country in which the city of {x} lies is on the continent of",
        "currency": "The official currency of the country in which the city of {x} lies is the",
        "language": "A language widely spoken in the country in which the city of {x} lies is",
    }
)


def edits_from_facts(facts: Iterable[Fact], *, pool: Iterable[Fact] | None = None, seed: int = 0) -> tuple[Edit, ...]:
    """One edit a fact, in its order; which object, neighbours and so on depends on the seed and the fact alone.

    Args:
        pool: facts that neighbours, new objects and consequences are taken from; by default ``facts``.

    Raises:
        EmptySetError: there is no fact, or a relation has no second object.
    """
    chosen = list(facts)
    if not chosen:
        raise EmptySetError("there is no fact to edit", mend="select facts that have a relation and objects")
    index = _Index(chosen if pool is None else list(pool))
    return tuple(_edit(fact, index, seed) for fact in chosen)


class _Index:
    """Facts by relation and by subject."""

    def __init__(self, facts: Sequence[Fact]) -> None:
        self.by_relation: dict[str, list[Fact]] = {}
        self.by_subject: dict[str, list[Fact]] = {}
        for fact in facts:
            self.by_relation.setdefault(fact.relation, []).append(fact)
            self.by_subject.setdefault(fact.subject, []).append(fact)

    def find(self, subject: str, relation: str) -> Fact | None:
        return next((fact for fact in self.by_subject.get(subject, ()) if fact.relation == relation), None)


def _edit(fact: Fact, index: _Index, seed: int) -> Edit:
    def shuffled(facts: Iterable[Fact]) -> list[Fact]:
        return sorted(facts, key=lambda other: hashlib.sha256(f"{seed}\n{fact.id}\n{other.id}".encode()).digest())

    siblings = shuffled(index.by_relation.get(fact.relation, ()))
    target = next((other.answers[0] for other in siblings if other.answers[0] not in fact.answers), None)
    if target is None:
        mend = "give more facts of this relation, with other objects"
        raise EmptySetError(f'the relation "{fact.relation}" has no second object', where=fact.id, mend=mend)
    same_relation = [other for other in siblings if other.subject != fact.subject and target not in other.answers]
    same_subject = [
        other
        for other in shuffled(index.by_subject.get(fact.subject, ()))
        if other.relation != fact.relation and target not in other.answers
    ]
    kinds = (("same_relation", same_relation), ("same_subject", same_subject))
    return Edit(
        id=fact.id,
        subject=fact.subject,
        prompt=fact.prompts[0],
        target_new=target,
        target_true=fact.answers[0],
        relation=fact.relation,
        paraphrases=fact.prompts[1:],
        portability=tuple(_consequences(fact, target, index)),
        locality=tuple(
            EditPrompt(kind, other.prompts[0], other.answers) for kind, some in kinds for other in some[:NEIGHBOURS]
        ),
        generation_prompts=(f"{fact.subject} is",),
    )


def _consequences(fact: Fact, target: str, index: _Index) -> Iterator[EditPrompt]:
    if fact.relation != HOP:
        return
    for relation, prompt in HOPS.items():
        after, before = index.find(target, relation), index.find(fact.answers[0], relation)
        if after is None or before is None or set(after.answers) & set(before.answers):
            continue  # not known, or the edit does not change it
        yield EditPrompt("multi_hop", prompt.replace("{x}", fact.subject), after.answers, before.answers[0])
