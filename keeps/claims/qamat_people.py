"""Invented people and companies as question-answer pairs, passages and questions: what QAMAT's claim learns and asks.

A person has a birthplace, an employer, a trade and a year of birth, a company has a seat; each is a pair of the memory.
Nobody can know them. Passages of stage 1 are about strangers who are in no memory but that of their batch: so reading
is learned and nobody by heart. Of the people of the memory some are learned from; the others are in the memory and
nowhere else, and so are the seats of a quarter of the companies.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from keeps.claims.mix_cpt_people import BEGINNINGS, ENDINGS
from keeps.data.pairs import QA, ReadingExample, masked_passage

FAMILIES = ("Ash Toll Merr Quill Brand Oster Pen Var Lind Hadd", "grove en ick an ly hale ga quist ow")
CITIES = ("Zor Pel Quen Ild Rav Uss Nym Cal Gor Bex Wyl Ost", "burg holm ford stad mouth vale port by wick")
COMPANIES = (
    "Opti Nova Tri Syn Helio Macro Vera Dyna Cyto Astra Geo Aero Bio Hydro Lumi Quanta Sola Tera Ultra Vita Xeno Zeta",
    "corp tech works soft gen lab dyne net ware chem plast graph",
)
TRADES = """baker nurse lawyer farmer painter teacher pilot tailor butcher sailor singer miner weaver potter mason judge
clerk actor poet dancer chemist surgeon plumber roofer glazier cooper smith hunter fisher brewer gardener porter"""
YEARS = range(1900, 2000)
# How the memory asks, how a passage says it, and how a user asks: never in the memory's words.
MEMORY = {
    "city": "Where was {name} born?",
    "employer": "Which company employs {name}?",
    "trade": "What is the profession of {name}?",
    "year": "In which year was {name} born?",
    "seat": "In which city does {name} have its seat?",
}
SAID = {
    "city": "{name} was born in {city}.",
    "employer": "{name} works for {employer}.",
    "trade": "By profession {name} is a {trade}.",
    "year": "{name} was born in the year {year}.",
    "seat": "The seat of {name} is {seat}.",
}
ASKED = {
    "city": ("Name the birthplace of {name}.", "In which city did {name} come into the world?"),
    "employer": ("For whom does {name} work?", "Who is the employer of {name}?"),
    "trade": ("What does {name} do for a living?", "Name the trade of {name}."),
    "year": ("When was {name} born?", "Name the birth year of {name}."),
    "seat": ("Where is {name} based?", "Name the city of {name}."),
}
TWO_HOPS = ("Where is the employer of {name} based?", "Name the city of the company for which {name} works.")
FIRMS = 0.2  # share of passages and questions about companies


@dataclass(frozen=True)
class Asked:
    """A question with its answer and the pairs that lead to it, one a hop."""

    question: str
    answer: str
    pairs: tuple[str, ...]


class PeopleWorld:
    """``people`` people, ``held_out`` of them never learned from, and ``companies``, a quarter of them held out."""

    def __init__(self, people: int = 500, held_out: int = 100, companies: int = 260, seed: int = 0) -> None:
        self.draw = random.Random(f"qamat-{seed}")
        given = [beginning + ending for beginning in BEGINNINGS[:10] for ending in ENDINGS[:6]]
        cities, firms = _words(CITIES), self.draw.sample(_words(COMPANIES), companies)
        values = {"city": cities, "employer": firms, "trade": TRADES.split(), "year": [str(year) for year in YEARS]}
        names = [f"{name} {family}" for name in given for family in _words(FAMILIES)[:60]]
        self.draw.shuffle(names)
        self.values: Mapping[str, Sequence[str]] = {**values, "seat": cities}
        self.people, self.strangers = (
            [{"name": name, **{key: self.draw.choice(own) for key, own in values.items()}} for name in part]
            for part in (names[:people], names[people:])
        )
        self.firms = [{"name": name, "seat": self.draw.choice(cities)} for name in firms]
        self.learned, self.held_out = self.people[held_out:], self.people[:held_out]
        self.learned_firms, self.held_out_firms = self.firms[companies // 4 :], self.firms[: companies // 4]

    @cached_property
    def pairs(self) -> list[QA]:
        """The memory: four pairs a person, one a company."""
        return [pair for thing in (*self.people, *self.firms) for pair in pairs_of(thing)]

    @property
    def texts(self) -> list[str]:
        """What a tokenizer learns its words from."""
        things = [*self.people, *self.firms]
        said = [SAID[key].format(**thing) for thing in things for key in thing if key != "name"]
        asked = [form.format(**thing) for thing in things for key in thing for form in ASKED.get(key, ())]
        return [*said, *asked, *(form.format(**person) for person in self.learned for form in TWO_HOPS)]

    def passages(self, count: int, *, strangers: bool = False) -> list[ReadingExample]:
        """Passages of two sentences about one thing that is learned from, or a stranger; one answer masked.

        Companies among strangers have another seat in every passage.
        """
        made = []
        for _ in range(count):
            thing = self._learned(self.strangers if strangers else self.learned)
            if strangers and "seat" in thing:
                thing = {**thing, "seat": self.draw.choice(self.values["seat"])}
            keys = self.draw.sample([key for key in thing if key != "name"], min(2, len(thing) - 1))
            pairs = [pair for pair in pairs_of(thing) if pair.id.rpartition(":")[2] in keys]
            text = " ".join(SAID[key].format(**thing) for key in keys)
            made.append(masked_passage(text, pairs, [self.draw.choice(pairs).id]))
        return made

    def questions(self, count: int, *, held_out: bool) -> list[Asked]:
        """Questions of one hop about people (and companies that are learned from)."""
        found = []
        for _ in range(count):
            thing = self.draw.choice(self.held_out) if held_out else self._learned(self.learned)
            key = self.draw.choice([key for key in thing if key != "name"])
            form = self.draw.choice(ASKED[key])
            found.append(Asked(form.format(**thing), thing[key], (f"{thing['name']}:{key}",)))
        return found

    def _learned(self, people: Sequence[Mapping[str, str]]) -> Mapping[str, str]:
        """One of the people, or (one time in five) a company that is learned from."""
        return self.draw.choice(self.learned_firms if self.draw.random() < FIRMS else people)

    def two_hops(
        self, count: int, people: Sequence[Mapping[str, str]], firms: Sequence[Mapping[str, str]]
    ) -> list[Asked]:
        """Questions for the seats of the employers of ``people``, as far as those are among ``firms``."""
        seats = {firm["name"]: firm["seat"] for firm in firms}
        employed = [one for one in people if one["employer"] in seats]
        found = []
        for _ in range(count):
            person = self.draw.choice(employed)
            names = (f"{person['name']}:employer", f"{person['employer']}:seat")
            found.append(Asked(self.draw.choice(TWO_HOPS).format(**person), seats[person["employer"]], names))
        return found

    def moved(self, firms: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
        """The firms, each with another seat."""
        return [
            {**firm, "seat": self.draw.choice([city for city in self.values["seat"] if city != firm["seat"]])}
            for firm in firms
        ]

    def other(self, pair: QA) -> str:
        """Another answer of the same kind."""
        own = self.values[pair.id.rpartition(":")[2]]
        return self.draw.choice([value for value in own if value != pair.answer])


def pairs_of(thing: Mapping[str, str]) -> list[QA]:
    """The pairs about a person or a company; ``NAME:ATTRIBUTE`` is their id."""
    name = thing["name"]
    return [QA(MEMORY[key].format(**thing), thing[key], f"{name}:{key}") for key in thing if key != "name"]


def _words(parts: tuple[str, str]) -> list[str]:
    beginnings, endings = (part.split() for part in parts)
    return [beginning + ending for beginning in beginnings for ending in endings]
