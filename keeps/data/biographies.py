"""bioS: invented biographies of which the information is known to the bit.

Source: Allen-Zhu and Li, arXiv:2404.05405, section 2.1; lists and sentences are our own
(:mod:`keeps.data.biography_lists`). N persons have different full names, drawn without replacement, and a pronoun,
birth date, birth city, university, major and employer, each uniform and independent of everything else, also of
the person's number; the city of work is where the employer has its headquarters. A biography has a sentence for
each attribute in a random order, the first with the full name and the others with the pronoun.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from keeps.data.biography_lists import ATTRIBUTES, DAYS, FIRST_YEAR, MONTHS, PRONOUNS, YEARS, Lists, standard_lists
from keeps.data.renderings import NAME, Person, Rendering, TextBuilder
from keeps.errors import SettingsError

PRONOUN = "pronoun"
VALUES = (PRONOUN, *ATTRIBUTES)  # whose losses make p2; the city of work adds no information


@dataclass(frozen=True)
class BioS:
    """The corpus bioS(N).

    Attributes:
        n: N, persons.
        seed: of the persons and of every text.
        online: a new draw of sentences and order at each exposure (``bioS``); otherwise one draw a person is kept
            (``bioS_simple``).
        lists: of names, values and sentences.

    Raises:
        SettingsError: there are fewer names than persons, or nobody.

    >>> corpus = BioS(2, seed=1)
    >>> rendering = corpus.rendering(corpus.persons[0], exposure=0)
    >>> rendering.value("name") == corpus.persons[0].full_name
    True
    """

    n: int
    seed: int = 0
    online: bool = True
    lists: Lists = field(default_factory=standard_lists)

    def __post_init__(self) -> None:
        check_persons(self.n, self.lists.names)

    @cached_property
    def persons(self) -> tuple[Person, ...]:
        """Everybody; the same for the same seed."""
        draw = random.Random(f"bioS-{self.seed}")
        numbers = draw.sample(range(self.lists.names), self.n)
        return tuple(self._person(str(place), number, draw) for place, number in enumerate(numbers))

    def rendering(self, person: Person, exposure: int = 0) -> Rendering:
        """The biography of ``person`` at this exposure, counted from 0."""
        shown = exposure if self.online else 0
        draw = random.Random(f"bioS-{self.seed}-{person.id}-{shown}")
        order = list(ATTRIBUTES)
        draw.shuffle(order)
        text = TextBuilder()
        for position, name in enumerate(order):
            template = draw.choice(self.lists.templates[name])
            if position:
                text.add(" ")
            _add_sentence(text, template, name, person, first=position == 0)
        return Rendering(person.id, text.text, text.spans)

    def exposure(self, number: int) -> list[Rendering]:
        """Everybody once, in a random order."""
        order = list(self.persons)
        random.Random(f"bioS-{self.seed}-order-{number}").shuffle(order)
        return [self.rendering(person, number) for person in order]

    def strangers(self, seed: int = 0) -> Iterator[Rendering]:
        """An endless stream of biographies of people outside the corpus, next to nobody twice: junk."""
        draw = random.Random(f"bioS-{self.seed}-strangers-{seed}")
        taken = {person.name for person in self.persons}
        count = 0
        while True:
            person = self._person(f"stranger-{count}", draw.randrange(self.lists.names), draw)
            if person.name not in taken:
                count += 1
                yield self.rendering(person)

    def _person(self, identity: str, number: int, draw: random.Random) -> Person:
        lists = self.lists
        employer = draw.randrange(len(lists.employers))
        month, day, year = draw.choice(MONTHS), 1 + draw.randrange(DAYS), FIRST_YEAR + draw.randrange(YEARS)
        values = {
            PRONOUN: draw.choice(PRONOUNS),
            "birth_date": f"{month} {day}, {year}",
            "birth_city": draw.choice(lists.cities),
            "university": draw.choice(lists.universities),
            "major": draw.choice(lists.majors),
            "employer": lists.employers[employer],
            "work_city": lists.cities[lists.headquarters[employer]],
        }
        return Person(identity, full_name(lists, number), values)


def full_name(lists: Lists, number: int) -> tuple[str, str, str]:
    """The full name with this number, below ``lists.names``."""
    rest, last = divmod(number, len(lists.last))
    first, middle = divmod(rest, len(lists.middle))
    return lists.first[first], lists.middle[middle], lists.last[last]


def check_persons(n: int, names: int) -> None:
    """Refuse a corpus of nobody, or of more persons than there are names.

    Raises:
        SettingsError: n is below 1 or above ``names``.
    """
    if not 1 <= n <= names:
        mend = "choose n between 1 and the number of names, or lengthen the lists"
        raise SettingsError(f"{n} persons cannot have different names out of {names}", where="n", mend=mend)


def _add_sentence(text: TextBuilder, template: str, name: str, person: Person, *, first: bool) -> None:
    middle = template.removeprefix("{subject}")
    before, _, after = middle.partition("{value}")
    if first:
        text.add(person.full_name, NAME)
    else:
        text.add(person.values[PRONOUN], PRONOUN)
    text.add(before)
    text.add(person.values[name], name)
    text.add(after)
