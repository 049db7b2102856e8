"""Which entities a reply may be about: right ones from what the user wants, wrong ones that look like them.

After Mishra et al. 2023 (arXiv:2210.07295). *Oracle*: entities that meet the belief in the full table; a name in it, or
documents that the reply was made from, take precedence. *Universe*: oracle, matches in the table as it is now and in
documents, padded at random. *Best*: the oracle entity that the conversation and the reply mention most.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import lru_cache

from keeps.data.entities import ANY, NAME, Entity, EntityBase, EntityDocument, folded
from keeps.data.entity_dialogs import NO, YES, Reply
from keeps.numerics.dialog_scores import mention_score, plain


def oracle(reply: Reply, full: EntityBase) -> list[Entity]:
    """The entities that the reply may rightly be about, in the order of the table.

    Args:
        full: the tables before anything moved into documents, against which the belief was noted.
    """
    if reply.chosen:
        names = set(map(folded, reply.chosen))
        return [entity for entity in full.of(reply.domain) if folded(entity.name) in names]
    name = reply.belief.get(NAME, "")
    return full.matching(reply.domain, reply.belief if folded(name) in ANY else {NAME: name})


def document_matches(domain: str, belief: Mapping[str, str], base: EntityBase) -> list[Entity]:
    """Entities in whose documents a wanted value stands, as whole words; of slots that are yes or no, the slot."""
    given = [(slot, plain(value)) for slot, value in belief.items() if folded(value) not in ANY]
    wanted = [plain(slot) if value in (YES, NO) else value for slot, value in given if value]
    return [entity for entity in base.of(domain) if _says(entity, wanted)]


def _says(entity: Entity, wanted: Sequence[str]) -> bool:
    texts = [f" {_words(document)} " for document in entity.documents]
    return any(f" {value} " in text for text in texts for value in wanted)


@lru_cache(maxsize=100_000)
def _words(document: EntityDocument) -> str:
    """Title and body in plain form, which every reply looks through."""
    return plain(f"{document.title} {document.body}")


def universe(reply: Reply, base: EntityBase, right: Sequence[Entity], *, least: int, seed: int) -> list[Entity]:
    """The candidates of a reply: right ones, those that match in table or documents, and others at random.

    Args:
        right: the oracle entities, by id; they are taken as ``base`` holds them.
        least: fewest candidates, which are also at least twice the right ones where there are so many. Those at random
            are of every domain, as all of them are scored when a conversation is answered.
    """
    names = [entity.id for entity in right]
    found = dict.fromkeys(name for name in names if name in base.by_id)
    found |= dict.fromkeys(entity.id for entity in base.matching(reply.domain, reply.belief))
    found |= dict.fromkeys(entity.id for entity in document_matches(reply.domain, reply.belief, base))
    others = [entity.id for entity in base if entity.id not in found]
    room = max(least, 2 * len(names)) - len(found)
    if room > 0:
        chance = random.Random(f"universe:{seed}:{reply.id}")
        found |= dict.fromkeys(chance.sample(others, min(room, len(others))))
    return [base.by_id[name] for name in found]


def best_entity(reply: Reply, right: Sequence[Entity], *, seed: int) -> Entity | None:
    """The entity that a reply is made from: the right one mentioned most, a random right one, or none."""
    if not right:
        return None
    text = "\n".join([*(said for _, said in reply.history), reply.text])
    scores = [mention_score(entity.name, text) for entity in right]
    if max(scores) > 0:
        return right[scores.index(max(scores))]
    return random.Random(f"best:{seed}:{reply.id}").choice(list(right))


def met(reply: Reply, entity: Entity) -> tuple[list[str], list[str]]:
    """Slots of the belief that ``entity`` meets, in table or documents, and those that it does not."""
    facts = {(slot, folded(value)) for slot, value in entity.facts()} | {(NAME, folded(entity.name))}
    wanted = {slot: folded(value) for slot, value in reply.belief.items() if folded(value) not in ANY}
    yes = [slot for slot, value in wanted.items() if (slot, value) in facts]
    return yes, [slot for slot in wanted if slot not in yes]
