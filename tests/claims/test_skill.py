"""The generated skill: dates that are written in other ways than they are sorted."""

from __future__ import annotations

import datetime
import re

from hypothesis import given
from hypothesis import strategies as st

from keeps.claims.skill import ASKED, FIRST, LAST, MONTHS, TAUGHT, dates, written
from keeps.data.records import Example


def parsed(text: str) -> datetime.date:
    """The day of a text in any style, found by its name of a month, its four figures and its one or two."""
    month = next(n for n, name in enumerate(MONTHS, 1) if name[:3] in text)
    year = re.search(r"\d{4}", text)
    day = re.search(r"(?<!\d)\d{1,2}(?!\d)", text)
    assert year
    assert day
    return datetime.date(int(year.group()), month, int(day.group()))


@given(st.dates(FIRST, LAST), st.integers(0, 3))
def test_every_style_names_its_day(day: datetime.date, style: int) -> None:
    assert parsed(written(day, style)) == day


def test_the_answer_of_each_example_is_the_day_of_its_prompt() -> None:
    taught, exams = dates(TAUGHT, ASKED)
    for record in (*taught, *exams["validation"], *exams["test"]):
        assert isinstance(record, Example)
        assert parsed(record.prompt).isoformat() == record.answer


def test_no_day_is_both_taught_and_asked_or_chosen_by_and_reported() -> None:
    taught, exams = dates(TAUGHT, ASKED)
    sets = [{record.id for record in part} for part in (taught, exams["validation"], exams["test"])]
    assert [len(part) for part in sets] == [TAUGHT, ASKED, ASKED]
    assert len(set.union(*sets)) == TAUGHT + 2 * ASKED
