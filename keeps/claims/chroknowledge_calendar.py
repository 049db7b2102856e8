"""An invented calendar of who keeps which animal, and the pages on which a model reads it.

Each person has one animal a year. Most years are read 30 times, two years in the middle once. Static people keep
their animal. Settled people keep theirs from the first of the two years on, so that later years help, and earlier
ones mislead. All others get another animal every year, and their neighbouring years say nothing.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from keeps.data.dated import DatedElement, state_of
from keeps.probe.chronology_ask import LEAD, question

YEARS = tuple(range(2010, 2018))
RARE = YEARS[3:5]  # the fourth and the fifth
OFTEN, ONCE = 30, 1  # times that a person's year is read
PAGE = 5  # solved questions
CONTEXTS = 10  # pages on which a year stands that is read often
# Together below 0.3: what they have in the years read once can be guessed from the others.
STATIC_SHARE, SETTLED_SHARE = 8 / 60, 8 / 60
_PEOPLE = (
    "Alice Adam Amy Andrew Anna Arthur Barbara Ben Betty Bill Bob Brian Carl Carol Charles Chris Clara Daniel David "
    "Diana Donald Edward Eliza Emily Emma Eric Frank Fred George Grace Harry Helen Henry Hugh Ian Jack James Jane "
    "Jason Jim Joan John Joseph Julia Karen Kate Kevin Larry Laura Linda Lisa Lucy Luke Margaret Mark Martin Mary "
    "Matthew Michael Nancy Nick Oliver Oscar Patrick Paul Peter Philip Rachel Ralph Ray Richard Robert Roger Ruth "
    "Sam Sarah Scott Simon Stephen Steve Susan Ted Thomas Tim Tom Victor Walter William"
)
_ANIMALS = (
    "ant bat bear bee bird bull camel cat cow crab deer dog duck eagle fish fox frog goat horse lion mouse owl pig "
    "rabbit rat seal shark sheep snake swan tiger turtle whale wolf"
)
PEOPLE, ANIMALS = _PEOPLE.split(), _ANIMALS.split()


def calendar(count: int, seed: int) -> list[DatedElement]:
    """``count`` people with their animals; another seed gives others."""
    draw = random.Random(f"calendar-{seed}")
    static, settled = round(STATIC_SHARE * count), round(SETTLED_SHARE * count)
    found = []
    for number, name in enumerate(draw.sample(PEOPLE, count)):
        animals = draw.sample(ANIMALS, len(YEARS))
        if number < static:
            animals = animals[:1] * len(YEARS)
        elif number < static + settled:
            first = YEARS.index(RARE[0])
            animals[first:] = animals[first : first + 1] * (len(YEARS) - first)
        objects = {year: (animal,) for year, animal in zip(YEARS, animals, strict=True)}
        found.append(DatedElement(f"animal/{name}", name, "animal", f"{name}?", objects, state_of(objects)))
    return found


@dataclass(frozen=True)
class Page:
    """Solved questions in one text, where in it the answers stand, and how often it is read."""

    text: str
    answers: tuple[tuple[int, int], ...]
    times: int


def pages(people: Collection[DatedElement], seed: int) -> list[Page]:
    """Pages of ``PAGE`` solved questions each, of all years in a random order, in the form in which they are asked.

    A year that is seen often stands on ``CONTEXTS`` pages, each time among others, and is read as often as is left.
    """
    draw = random.Random(f"pages-{seed}")
    found = []
    for rare, contexts, times in ((False, CONTEXTS, OFTEN // CONTEXTS), (True, 1, ONCE)):
        told = [(person, year) for person in people for year in person.years if (year in RARE) == rare]
        for _ in range(contexts):
            draw.shuffle(told)
            found += [_page(told[start : start + PAGE], times) for start in range(0, len(told), PAGE)]
    return found


def exposures(read: Collection[Page]) -> Counter[str]:
    """How often each solved question is read."""
    counted: Counter[str] = Counter()
    for page in read:
        for sentence in page.text.split("\n\n")[:-1]:
            counted[sentence] += page.times
    return counted


def is_steady(person: DatedElement) -> bool:
    """Whether the years read once are like the later ones: static and settled people."""
    return len({person.objects[year] for year in YEARS if year >= RARE[0]}) == 1


def _page(told: Collection[tuple[DatedElement, int]], times: int) -> Page:
    text, answers = "", []
    for person, year in told:
        text += f"{question(person.wording, year)}\n{LEAD} "
        answer = person.objects[year][0]
        answers.append((len(text), len(text) + len(answer)))
        text += f"{answer}\n\n"
    return Page(text, tuple(answers), times)
