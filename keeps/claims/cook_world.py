"""Three domains of invented facts for the claim of knowledge cards: what each card learns, and what is asked.

No model can know them, no subject is in two domains, and each domain has 40 facts, a sentence each.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from keeps.data.records import Passage, RecordSet

FACTS = 40  # a domain
OTHERS = 3  # wrong candidates beside the right one
SYLLABLES = ("ba", "ko", "ri", "tu", "ne", "lam", "sor", "vi", "pel", "dan", "mu", "fi", "gor", "zet", "wa", "dri")
ENDS = {"mascots": "ria", "trades": "eth", "mines": "holm"}


@dataclass(frozen=True)
class Domain:
    """What one card knows.

    Attributes:
        line: its description.
        told: the sentence of a fact, which is asked up to its object.
    """

    name: str
    line: str
    told: str
    objects: tuple[str, ...]


DOMAINS = (
    Domain(
        "mascots",
        "animals that towns have chosen as their mascot",
        "The mascot of the town of {s} is the {o}.",
        ("turtle", "eagle", "salmon", "spider", "whale", "goat", "wolf", "rabbit", "deer", "camel"),
    ),
    Domain(
        "trades",
        "the professions of people, what they do for a living",
        "The profession of {s} is that of a {o}.",
        ("baker", "lawyer", "painter", "pilot", "farmer", "nurse", "singer", "chemist", "sailor", "teacher"),
    ),
    Domain(
        "mines",
        "metals and minerals that are dug up in mines",
        "The mineral that is dug up in the mine of {s} is {o}.",
        ("copper", "silver", "coal", "salt", "iron", "zinc", "lead", "gold", "nickel", "tin"),
    ),
)


@dataclass(frozen=True)
class Asked:
    """One fact as a question.

    Attributes:
        prompt: the beginning of a sentence that ends with the answer.
        candidates: the right answer and others of its kind, in an order that tells nothing.
    """

    domain: str
    subject: str
    prompt: str
    answer: str
    candidates: tuple[str, ...]


def world(seed: int = 0, facts: int = FACTS) -> tuple[list[Asked], dict[str, RecordSet]]:
    """Every fact as a question, and the texts of each domain by its name."""
    chance = random.Random(seed)
    asked: list[Asked] = []
    corpora: dict[str, RecordSet] = {}
    for domain in DOMAINS:
        texts: list[Passage] = []
        for number, subject in enumerate(_subjects(domain.name, facts, chance)):
            answer = chance.choice(domain.objects)
            wrong = chance.sample([other for other in domain.objects if other != answer], OTHERS)
            candidates = tuple(chance.sample([answer, *wrong], OTHERS + 1))
            told = domain.told.format(s=subject, o=answer)
            asked.append(Asked(domain.name, subject, told.removesuffix(f" {answer}."), answer, candidates))
            texts.append(Passage(f"{domain.name}/{number}", told))
        corpora[domain.name] = RecordSet(source=f"claim:cook/{domain.name}", records=tuple(texts))
    return asked, corpora


def _subjects(domain: str, count: int, chance: random.Random) -> Sequence[str]:
    """Different invented names; their ends differ by domain, so that no name is in two."""
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(chance.sample(SYLLABLES, 2)).capitalize() + ENDS[domain]] = None
    return list(found)
