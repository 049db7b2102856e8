"""A new skill with generated examples: dates as people write them become dates as computers sort them.

    The date 14 March 1987 in ISO form: 1987-03-14

Every example is another day, so that an exam of other days asks for the skill and not for what was memorised. The
default model answers few of them (its answers have the right form at times, and the wrong figures).
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Mapping, Sequence
from typing import Any

from keeps.claims.base import ClaimRun
from keeps.claims.baselines import KEEP
from keeps.claims.job import KeepingJob, Outcome, Variants
from keeps.data.records import Example, RecordSet, Split
from keeps.models.language_model import LanguageModel

FIRST, LAST = datetime.date(1600, 1, 1), datetime.date(2099, 12, 31)
SEEDS: dict[str, int] = {"taught": 1, "validation": 2, "test": 3}
WORDINGS = (
    "The date {} in ISO form:",
    "{} is written by computers as",
    "Sort by date: {} becomes",
)
TAUGHT, ASKED = 1000, 100
COMMON: Mapping[str, Any] = {
    "rank": 16,
    "epochs": 1,
    "batch_size": 16,
    "schedule": "constant",
    "precision": "bfloat16",  # all methods alike: a step takes two thirds of the time
}
MONTHS = ("January", "February", "March", "April", "May", "June")
MONTHS += ("July", "August", "September", "October", "November", "December")


def written(day: datetime.date, style: int) -> str:
    """The day in one of four styles.

    >>> [written(datetime.date(1987, 3, 2), style) for style in range(4)]
    ['2 March 1987', 'March 2nd, 1987', 'the 2nd of March 1987', 'Mar 2, 1987']
    """
    month = MONTHS[day.month - 1]
    number = ordinal(day.day)
    return (
        f"{day.day} {month} {day.year}",
        f"{month} {number}, {day.year}",
        f"the {number} of {month} {day.year}",
        f"{month[:3]} {day.day}, {day.year}",
    )[style]


def ordinal(number: int) -> str:
    """As it is said.

    >>> [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 22, 23, 30)]
    ['1st', '2nd', '3rd', '4th', '11th', '12th', '13th', '21st', '22nd', '23rd', '30th']
    """
    last = 0 if 10 < number % 100 < 14 else number % 10
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(last, 'th') }"


def days(count: int, seed: int, without: Sequence[datetime.date] = ()) -> list[datetime.date]:
    """``count`` different days of five centuries, none of ``without``."""
    draw, seen, found = random.Random(seed), set(without), []
    while len(found) < count:
        day = datetime.date.fromordinal(draw.randint(FIRST.toordinal(), LAST.toordinal()))
        if day not in seen:
            seen.add(day)
            found.append(day)
    return found


def examples(name: str, chosen: Sequence[datetime.date], seed: int) -> RecordSet:
    """One example a day, each in a style and a wording drawn with ``seed``."""
    draw = random.Random(seed)
    records = []
    for day in chosen:
        prompt = draw.choice(WORDINGS).format(written(day, draw.randrange(4)))
        records.append(Example(f"date:{day.isoformat()}", prompt[0].upper() + prompt[1:], day.isoformat()))
    return RecordSet(f"{len(records)} dates, {name}", tuple(records))


def dates(taught: int, asked: int) -> tuple[RecordSet, dict[Split, RecordSet]]:
    """What is taught, and an exam for choosing settings and one for the report; no day is in two of them."""
    learned = days(taught, SEEDS["taught"])
    validation = days(asked, SEEDS["validation"], learned)
    test = days(asked, SEEDS["test"], [*learned, *validation])
    exams: dict[Split, RecordSet] = {
        "validation": examples("exam for choosing", validation, SEEDS["validation"]),
        "test": examples("exam", test, SEEDS["test"]),
    }
    return examples("taught", learned, SEEDS["taught"]), exams


def skill_job(model: LanguageModel, run: ClaimRun, variants: Variants, command: str) -> KeepingJob:
    """The job that teaches the skill in one pass; what is kept is asked as in the job of the baselines.

    A rate is chosen by the mean of what the exam shows and of what is kept, on days that the report does not ask.
    """
    learn, exams = dates(TAUGHT, ASKED)

    def merit(outcome: Outcome) -> tuple[bool, float, float]:
        return True, (outcome.unseen + outcome.kept) / 2, -abs(outcome.text_shift)

    both: dict[Split, RecordSet] = {"validation": learn, "test": learn}
    options: dict[str, Any] = {"learn": both, "keep": KEEP, "common": COMMON, "exams": exams}
    return KeepingJob(model, run, variants, **options, command=command, merit=merit)
