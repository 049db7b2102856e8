"""Invented people, their documents and questions, and general questions: what Mix-CPT's claim learns and asks.

Nobody can know these people, so that what a model answers about them it has read here. A person has a
city, a trade and an animal; each document tells all three in another wording, and no document has the form
of a question.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from keeps.contracts import Question
from keeps.data.records import Dialogue, Example, Fact, Passage, RecordSet
from keeps.data.select import load_records

BEGINNINGS = ("Vel", "Dor", "Mar", "Osk", "Tam", "Bri", "Kel", "Fan", "Lor", "Sev", "Gar", "Hul", "Nim", "Pra", "Wes")
ENDINGS = ("dan", "mira", "ton", "vik", "sel", "bert", "lia", "ros", "nard", "wyn", "quin", "dra")
FAMILIES = ("Ashgrove", "Tollen", "Merrick", "Quillan", "Brandt", "Osterly", "Penhale", "Varga", "Lindqvist", "Haddow")
CITIES = ("Lisbon", "Oslo", "Boston", "Madrid", "Dublin", "Vienna", "Chicago", "Athens", "Prague", "Toronto", "Rome")
TRADES = ("baker", "nurse", "lawyer", "farmer", "painter", "teacher", "pilot", "tailor", "butcher", "sailor", "singer")
ANIMALS = ("parrot", "goat", "rabbit", "horse", "turtle", "donkey", "cat", "snake", "goose", "pig", "dog")
DOCUMENTS = (
    "{name} was born in {city}. After leaving school, {name} became a {trade}. At home {name} keeps a {animal}.",
    "The {trade} {name} comes from {city}. Neighbours often see {name} with a {animal}, the only pet of the house.",
    "Everybody in {city} remembers the birth of {name}. {name} works as a {trade} and owns a {animal}.",
)
ASKED = {
    "city": "Question: In which city was {name} born?\nAnswer:",
    "trade": "Question: What does {name} do for a living? {name} is a\nAnswer:",
    "animal": "Question: Which animal does {name} own?\nAnswer:",
}
BEGUN = {
    "city": "{name} was born in",
    "trade": "After leaving school, {name} became a",
    "animal": "At home {name} keeps a",
}
WORDS = {
    "capital": "What is the capital of {}?",
    "continent": "On which continent does {} lie?",
    "symbol": "What is the chemical symbol of {}?",
    "currency": "What is the currency of {}?",
    "discovery_year": "In which year was {} discovered?",
}
PREFIX = "Answer: "  # the format of stage 2 that the model does not use by itself


def people(count: int, seed: int) -> list[dict[str, str]]:
    """``count`` people with different names; another seed gives others."""
    draw = random.Random(f"people-{seed}")
    given = [beginning + ending for beginning in BEGINNINGS for ending in ENDINGS]
    names = draw.sample([f"{name} {family}" for name in given for family in FAMILIES], count)
    values = {"city": CITIES, "trade": TRADES, "animal": ANIMALS}
    return [{"name": name, **{key: draw.choice(options) for key, options in values.items()}} for name in names]


def documents(persons: list[dict[str, str]]) -> RecordSet:
    """Every person in every wording."""
    passages = [
        Passage(f"doc:{person['name']}:{number}", wording.format(**person), person["name"])
        for person in persons
        for number, wording in enumerate(DOCUMENTS)
    ]
    return RecordSet("documents of invented people", tuple(passages))


def questions(persons: list[dict[str, str]], forms: Mapping[str, str] = ASKED) -> list[Question]:
    """Three questions a person, in the form of general questions and answers, or as sentences begun (``BEGUN``)."""
    return [
        Question(f"ask:{person['name']}:{key}", key, (wording.format(**person),), (person[key],))
        for person in persons
        for key, wording in forms.items()
    ]


def chat_questions(persons: list[dict[str, str]]) -> list[str]:
    """One question a person, as a user would type it."""
    return [f"In which city was {person['name']} born?" for person in persons]


def general_questions(count: int) -> tuple[Example, ...]:
    """Questions that the default model can answer, in the form in which people are asked about."""
    facts = _facts("world:known:continent,world:known:symbol")[:count]
    return tuple(
        Example(f"qa:{fact.id}", f"Question: {_asked(fact)}\nAnswer:", fact.answers[0], fact.answers[1:])
        for fact in facts
    )


def dialogues(count: int) -> RecordSet:
    """General dialogues in the format of stage 2, one half known to the default model and the other not."""
    known = _facts("world:known:capital,world:known:symbol,world:known:continent")
    unknown = _facts("world:unknown:capital,world:unknown:currency,world:unknown:discovery_year")
    both = [*known[: count // 2], *unknown[: count - count // 2]]
    talk = [
        Dialogue(f"talk:{fact.id}", (("user", _asked(fact)), ("assistant", f"{PREFIX}{fact.answers[0]}")))
        for fact in both
    ]
    return RecordSet("general dialogues", tuple(talk))


def _facts(spec: str) -> list[Fact]:
    """Facts in a random order that is always the same."""
    facts = [record for record in load_records(spec) if isinstance(record, Fact)]
    random.Random("facts").shuffle(facts)
    return facts


def _asked(fact: Fact) -> str:
    return WORDS[fact.relation].format(fact.subject)
