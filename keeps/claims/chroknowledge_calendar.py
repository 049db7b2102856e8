"""An invented calendar of who keeps which animal, and the sentences that a model reads of it.

Each person has one animal a year. Some years stand in 30 sentences, two years in the middle in one. Static people
keep their animal; dynamic people get another one every year, so that neighbouring years say nothing of it.
"""

from __future__ import annotations

import random
from collections.abc import Collection

from keeps.data.dated import DYNAMIC, STATIC, DatedElement, state_of
from keeps.data.records import Example, RecordSet
from keeps.probe.chronology_ask import LEAD, question

YEARS = tuple(range(2010, 2018))
RARE = YEARS[3:5]  # the fourth and the fifth
OFTEN, ONCE = 30, 1  # sentences of a person's year
STATIC_SHARE = 0.2
PEOPLE = (
    "Alice Adam Amy Andrew Anna Arthur Barbara Ben Betty Bill Bob Brian Carl Carol Charles Chris Clara Daniel David "
    "Diana Donald Edward Eliza Emily Emma Eric Frank Fred George Grace Harry Helen Henry Hugh Ian Jack James Jane "
    "Jason Jim Joan John Joseph Julia Karen Kate Kevin Larry Laura Linda Lisa Lucy Luke Margaret Mark Martin Mary "
    "Matthew Michael Nancy Nick Oliver Oscar Patrick Paul Peter Philip Rachel Ralph Ray Richard Robert Roger Ruth "
    "Sam Sarah Scott Simon Stephen Steve Susan Ted Thomas Tim Tom Victor Walter William"
).split()
ANIMALS = (
    "ant bat bear bee bird bull camel cat cow crab deer dog duck eagle fish fox frog goat horse lion mouse owl pig "
    "rabbit rat seal shark sheep snake swan tiger turtle whale wolf"
).split()


def calendar(count: int, seed: int) -> list[DatedElement]:
    """``count`` people with their animals; another seed gives others."""
    draw = random.Random(f"calendar-{seed}")
    names = draw.sample(PEOPLE, count)
    static = round(STATIC_SHARE * count)
    found = []
    for number, name in enumerate(names):
        animals = draw.sample(ANIMALS, len(YEARS)) if number >= static else [draw.choice(ANIMALS)] * len(YEARS)
        objects = {year: (animal,) for year, animal in zip(YEARS, animals, strict=True)}
        found.append(DatedElement(f"animal/{name}", name, "animal", f"{name}?", objects, state_of(objects)))
    return found


def sentences(people: Collection[DatedElement]) -> RecordSet:
    """Every person's year as often as it is to be seen, in the form in which it is asked."""
    records = [
        Example(f"{person.id}/{year}/{number}", f"{question(person.wording, year)}\n{LEAD}", person.objects[year][0])
        for person in people
        for year in person.years
        for number in range(ONCE if year in RARE else OFTEN)
    ]
    return RecordSet("calendar", tuple(records))


def by_state(people: Collection[DatedElement]) -> dict[str, list[DatedElement]]:
    """The people who keep their animal, and the others."""
    return {state: [person for person in people if person.state == state] for state in (STATIC, DYNAMIC)}
