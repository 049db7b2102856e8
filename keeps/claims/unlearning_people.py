"""Invented persons for the claim about unlearning: no model has ever read of them.

Each person has two facts whose answers are invented words. Persons are dealt to three parts: 10 are to be forgotten,
20 retained, and 20 are held out, which no model is trained on. Names and answers of all parts are drawn from the same
lists and syllables, so that nothing but training tells them apart.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from keeps.data.records import Example, RecordSet
from keeps.data.unlearning import Item

SEED = 20231115
PERSONS = {"forget": 10, "retain": 20, "holdout": 20}
FIRST = ("Walter", "Clara", "Henry", "Alice", "Oscar", "Emma", "Felix", "Laura", "Simon", "Helen")
LAST = ("Stone", "Rivers", "Baker", "Woods", "Fisher", "Snow", "Miller", "Fields", "Carter", "Marsh", "Bishop", "Lake")
ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "kr", "st", "tr", "sk")
VOWELS = ("a", "e", "i", "o", "u", "ai", "ou")
CODAS = ("", "", "n", "l", "r", "s", "m", "x", "th", "nd")
PROMPTS = ("{name} was born in", "{name} has a dog called")
PARAPHRASES = ("The town where {name} was born is called", "The dog of {name} goes by the name of")
WRONG = 4  # wrong answers a fact, of the same form


@dataclass(frozen=True)
class InventedFact:
    """One question about one person."""

    id: str
    part: str
    prompt: str
    paraphrase: str
    answer: str
    wrong: tuple[str, ...]

    @property
    def item(self) -> Item:
        """As the unlearning probe asks it."""
        return Item(self.id, self.part, self.prompt, self.answer, perturbed_answers=self.wrong)


@cache
def invented_facts() -> tuple[InventedFact, ...]:
    """All 100, the same ones in every run."""
    draw = random.Random(SEED)
    used: set[str] = set()

    def word(syllables: int) -> str:
        while True:
            found = "".join(draw.choice(ONSETS) + draw.choice(VOWELS) + draw.choice(CODAS) for _ in range(syllables))
            if found not in used:
                used.add(found)
                return found.capitalize()

    names = [f"{first} {last}" for first in FIRST for last in LAST]
    draw.shuffle(names)
    facts = []
    for part, count in PERSONS.items():
        for number in range(count):
            name = names.pop()
            for kind, (prompt, paraphrase) in enumerate(zip(PROMPTS, PARAPHRASES, strict=True)):
                answer, *wrong = (word(2) for _ in range(1 + WRONG))
                identity = f"{part}/{number}/{kind}"
                texts = prompt.format(name=name), paraphrase.format(name=name)
                facts.append(InventedFact(identity, part, *texts, answer, tuple(wrong)))
    return tuple(facts)


def examples_of(*parts: str) -> RecordSet:
    """The facts of some parts as records to train on."""
    chosen = [fact for fact in invented_facts() if fact.part in parts]
    return RecordSet(f"invented: {', '.join(parts)}", tuple(Example(f.id, f.prompt, f.answer) for f in chosen))
