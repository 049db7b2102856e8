"""The five quizzes of KGQuiz made from a graph: what is asked, what is right, and what stands beside it.

Source: Bai et al., KGQuiz, WWW 2024 (arXiv:2310.09725), section 3; the wording of tasks 1, 3 and 5 is the paper's.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from keeps.data.triples import MASK, Triple, TripleSet, name_key, relation_label
from keeps.probe.kgquiz_negatives import Negatives

TRUE_FALSE, CHOICE, BLANK, EDITING, OPEN = 1, 2, 3, 4, 5
TASKS = {
    TRUE_FALSE: "true or false",
    CHOICE: "multiple choice",
    BLANK: "blank filling",
    EDITING: "factual editing",
    OPEN: "open-ended generation",
}
LETTERS = "ABCDEFGHIJ"
JOINT = " | "  # between the parts of a chain of facts
BLANKS = {
    "question": "Q: {masked}. What should [MASK] be?\nA:",
    "replace": "{masked}. Replace the [MASK] with the words with the highest probability.",
}
BLANK_FORMS = (*BLANKS, "completion")  # the last one continues the words before the mask
EDIT = (
    "One name in this chain of facts is wrong. Write the chain again with the right name in its place.\n"
    "Chain: {chain}\nCorrected chain:"
)
STEPS = 200  # of one walk, with those taken back, before another entity is tried


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        id: stable: it depends on the content, not on how many others are asked.
        domain: the graph it comes from.
        strategy: of the wrong tail; "" where there is none.
        fact: what joins the questions of one triple over the tasks.
        prompt: as a model is asked; for multiple choice by likelihood ``lead`` is completed instead.
        answer: the gold answer: ``"True"``, a choice, a tail, an entity, or the entity that task 5 asks about.
        accepted: every right answer, the gold one first.
        lead: the words in front of the mask; "" where the mask does not end the statement.
        parts: of the chain of task 4, entities and relations in turn.
        slot: which of ``parts`` is wrong.
        facts: gold facts of task 5 in words, each once.
    """

    id: str
    task: int
    domain: str
    relation: str
    strategy: str
    fact: str
    prompt: str
    answer: str
    accepted: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    lead: str = ""
    parts: tuple[str, ...] = ()
    slot: int = 0
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chain:
    """A path of triples, and which of them ends at the entity that is to be made wrong."""

    triples: tuple[Triple, ...]
    slot: int

    @property
    def id(self) -> str:
        """Hash of the content (12 hexadecimal digits)."""
        return _hash("/".join(triple.id for triple in self.triples), str(self.slot))

    @property
    def parts(self) -> tuple[str, ...]:
        """Entities and relations in turn."""
        steps = ((relation_label(triple.relation), triple.tail) for triple in self.triples)
        return (self.triples[0].head, *(part for step in steps for part in step))


class Builder:
    """Makes the items of one graph."""

    def __init__(
        self,
        graph: TripleSet,
        domain: str,
        negatives: Negatives,
        *,
        seed: int,
        options: int = 4,
        blank: str = "question",
    ) -> None:
        self.graph, self.domain, self.negatives = graph, domain, negatives
        self.seed, self.options, self.blank = seed, options, blank

    def items(self, task: int, strategy: str, unit: Triple | Chain | Item | str) -> Sequence[Item]:
        """What a unit of a plan becomes: a triple, a chain, an entity, or a ready item."""
        if isinstance(unit, Item):
            return [unit]
        if isinstance(unit, str):
            return [self.open_ended(unit)]
        if isinstance(unit, Chain):
            return [self.editing(unit, strategy)]
        if task == TRUE_FALSE:
            return self.true_false(unit, strategy)
        return [self.choice(unit, strategy) if task == CHOICE else self.filling(unit)]

    def true_false(self, triple: Triple, strategy: str) -> tuple[Item, Item]:
        """A true and a false statement of one head and relation."""
        [wrong] = self.negatives.draw(triple, strategy, 1)
        made = []
        for told, tail in ((True, triple.tail), (False, wrong)):
            statement = self.graph.statement(Triple(triple.head, triple.relation, tail))
            made.append(self._item(TRUE_FALSE, triple, strategy, true_false_prompt(statement), str(told), str(told)))
        return made[0], made[1]

    def choice(self, triple: Triple, strategy: str) -> Item:
        """The tail among wrong ones, in random order."""
        choices = [triple.tail, *self.negatives.draw(triple, strategy, self.options - 1)]
        random.Random(_hash(str(self.seed), strategy, triple.id)).shuffle(choices)
        masked = self.graph.masked(triple)
        return self._item(
            CHOICE,
            triple,
            strategy,
            choice_prompt(masked, choices),
            triple.tail,
            choices=tuple(choices),
            lead=lead_of(masked),
            accepted=(triple.tail,),
        )

    def filling(self, triple: Triple) -> Item:
        """The tail without options."""
        accepted = self.graph.tails(triple.head, triple.relation)
        return self._item(
            BLANK,
            triple,
            "",
            BLANKS.get(self.blank, BLANKS["question"]).format(masked=self.graph.masked(triple)),
            triple.tail,
            accepted=(triple.tail, *(name for name in accepted if name != triple.tail)),
            lead=lead_of(self.graph.masked(triple)),
        )

    def editing(self, chain: Chain, strategy: str) -> Item:
        """A chain with one wrong entity inside."""
        into, out = chain.triples[chain.slot], chain.triples[chain.slot + 1]
        own = {name_key(part) for part in chain.parts}
        drawn = self.negatives.draw(into, strategy, len(chain.triples))
        wrong = next(name for name in drawn if name_key(name) not in own)
        parts, slot = list(chain.parts), 2 * chain.slot + 2
        parts[slot] = wrong
        fits = [
            name
            for name in self.graph.tails(into.head, into.relation)
            if name != into.tail and self.graph.holds(name, out.relation, out.tail)
        ]
        return Item(
            id=f"{self.domain}:{EDITING}:{strategy}:{chain.id}",
            task=EDITING,
            domain=self.domain,
            relation=into.relation,
            strategy=strategy,
            fact=into.id,
            prompt=edit_prompt(parts),
            answer=into.tail,
            accepted=(into.tail, *fits),
            parts=tuple(parts),
            slot=slot,
        )

    def open_ended(self, entity: str) -> Item:
        """Whatever the graph says of an entity."""
        return Item(
            id=f"{self.domain}:{OPEN}:{_hash(entity)}",
            task=OPEN,
            domain=self.domain,
            relation="",
            strategy="",
            fact="",
            prompt=open_prompt(entity),
            answer=entity,
            facts=tuple(map(self.graph.statement, self.graph.outgoing[entity])),
        )

    def _item(
        self,
        task: Literal[1, 2, 3],
        triple: Triple,
        strategy: str,
        prompt: str,
        answer: str,
        suffix: str = "",
        **more: tuple[str, ...] | str,
    ) -> Item:
        words = (self.domain, str(task), strategy, triple.id, suffix.lower())
        identity = ":".join(word for word in words if word)
        return Item(identity, task, self.domain, triple.relation, strategy, triple.id, prompt, answer, **more)  # type: ignore[arg-type]


def chains(graph: TripleSet, hops: int, count: int | None, seed: int) -> list[Chain]:
    """Walks along triples through ``hops + 1`` different entities, at most one from each, in random order."""
    heads = sorted(graph.outgoing, key=lambda head: _hash(str(seed), head))
    found: list[Chain] = []
    for head in heads:
        if count is not None and len(found) >= count:
            break
        source = random.Random(_hash(str(seed), "walk", head))
        walk = _walk(graph, head, hops, source)
        if walk:
            found.append(Chain(walk, source.randrange(hops - 1)))
    return found


def rich_entities(graph: TripleSet, fewest: int, seed: int) -> list[str]:
    """Heads of at least ``fewest`` triples, in random order."""
    rich = [head for head, triples in graph.outgoing.items() if len(triples) >= fewest]
    return sorted(rich, key=lambda head: _hash(str(seed), head))


def true_false_prompt(statement: str) -> str:
    """How task 1 asks."""
    return f'Is the statement "{statement}" True or False?'


def choice_prompt(masked: str, choices: Sequence[str]) -> str:
    """How task 2 asks for a letter."""
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return "\n".join([f"Q: {masked}. What should {MASK} be?", *lines, "Answer with one letter.", "A:"])


def edit_prompt(parts: Sequence[str]) -> str:
    """How task 4 asks."""
    return EDIT.format(chain=JOINT.join(parts))


def open_prompt(entity: str) -> str:
    """How task 5 asks."""
    return f"Tell me some facts about {entity}:"


def lead_of(masked: str) -> str:
    """What stands in front of the mask where it ends the statement, else "".

    >>> lead_of("The capital of Norway is [MASK]."), lead_of("[MASK] is in Norway")
    ('The capital of Norway is', '')
    """
    before, _, after = masked.partition(MASK)
    return before.rstrip() if after.strip(" .") == "" else ""


def _walk(graph: TripleSet, head: str, hops: int, source: random.Random) -> tuple[Triple, ...] | None:
    """A walk from ``head``, turning back at dead ends; None where none is found in :data:`STEPS` steps."""
    steps: list[Triple] = []
    seen = [name_key(head)]
    waiting = [_onwards(graph, head, source)]
    for _ in range(STEPS):
        if len(steps) == hops:
            return tuple(steps)
        step = next((step for step in waiting[-1] if name_key(step.tail) not in seen), None)
        if step is not None:
            steps.append(step)
            seen.append(name_key(step.tail))
            waiting.append(_onwards(graph, step.tail, source))
        elif steps:
            for taken in (steps, seen, waiting):
                taken.pop()
        else:
            return None
    return None


def _onwards(graph: TripleSet, head: str, source: random.Random) -> Iterator[Triple]:
    """The triples that begin at ``head``, in random order, each once."""
    found = graph.outgoing.get(head, ())
    return iter(source.sample(found, len(found)))


def _hash(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
