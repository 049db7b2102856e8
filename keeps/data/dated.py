"""Facts that change with time: a subject, a relation, and the objects that were right in each year.

One JSON object (or row) a fact, with a column a year; lists hold every accepted object:

    {"subject": "Norway", "relation": "prime minister", "objects_2012": ["Jens Stoltenberg"], "objects_2013": [...]}
    {"question": "what is the fee of Form 7?", "answers_2012": ["30 dollars"], "answers_2013": [...]}

``state`` is ``static`` or ``dynamic`` and follows from the objects where it is not given; ``domain``, ``id`` and
``distractors`` are optional. Two other layouts, with one row a fact and time, are read too: see
:mod:`keeps.data.dated_layouts`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keeps.data.dated_layouts import OBJECT, Drafted, by_question, by_statement, is_by_question, is_by_statement
from keeps.data.readers import file_rows
from keeps.data.rows import Row
from keeps.errors import EmptySetError, RecordError, SettingsError

STATES = STATIC, DYNAMIC = ("static", "dynamic")
YEARS = (1000, 2999)  # first and last year that a fact may have
_YEAR_COLUMN = re.compile(r"(objects|answers)_(.+)")


@dataclass(frozen=True)
class DatedElement:
    """One fact over its years.

    Attributes:
        wording: how it is said, with ``[Object]`` for the object, or a question without it.
        objects: year to the objects that are right in it, the canonical one first; years ascend.
        state: ``"static"`` where the objects are the same in every year, else ``"dynamic"``.
        distractors: wrong objects for questions with choices, if the data bring any.
    """

    id: str
    subject: str
    relation: str
    wording: str
    objects: Mapping[int, tuple[str, ...]]
    state: str
    domain: str = ""
    distractors: tuple[str, ...] = ()

    @property
    def years(self) -> tuple[int, ...]:
        """Its years, ascending."""
        return tuple(self.objects)


def read_dated(path: Path | str, *, years: tuple[int, int] | None = None, gaps: bool = False) -> list[DatedElement]:
    """The facts of a file of any of the three layouts.

    The frame runs from the first to the last year: those of the whole file where a row holds all years of a fact,
    else those of each fact.

    Args:
        years: first and last year to keep.
        gaps: whether years inside the frame may be missing.

    Raises:
        EmptySetError: no fact has two years in the frame.
        RecordError: no objects, no wording, an impossible year, a year missing inside the frame, a wrong state, an
            id that stands twice.
        SettingsError: ``years`` are none of the file's.
    """
    rows = list(file_rows(Path(path)))
    if not rows:
        raise EmptySetError("there is no row", where=str(path), mend="add at least one dated fact")
    elements = list(_elements(rows, gaps))
    _refuse_repeated(elements, str(path))
    if years is not None:
        elements = _within(elements, years, str(path))
    if not elements:
        what = "no fact has two years" + (f" from {years[0]} to {years[1]}" if years else "")
        raise EmptySetError(what, where=str(path), mend="take more years, or other data")
    return elements


def dated_fingerprint(elements: Iterable[DatedElement]) -> str:
    """Hash of the facts (16 hexadecimal digits)."""
    content = [[e.id, e.subject, e.relation, e.wording, list(e.objects.items()), e.state, e.domain] for e in elements]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:16]


def state_of(objects: Mapping[int, Sequence[str]]) -> str:
    """Static where every year has the same set of objects, whatever their order and case.

    >>> state_of({2010: ["A", "b"], 2011: ["B", "a"]}), state_of({2010: ["A"], 2011: ["A", "B"]})
    ('static', 'dynamic')
    """
    sets = {frozenset(item.casefold() for item in items) for items in objects.values()}
    return STATIC if len(sets) == 1 else DYNAMIC


def _elements(rows: Sequence[Row], gaps: bool) -> Iterator[DatedElement]:
    first = rows[0]
    if is_by_question(first):
        drafts: Iterable[Drafted] = by_question(rows)
        gaps = True  # its questions are of some years only, by their nature
    elif is_by_statement(first):
        drafts = by_statement(rows)
    else:
        yield from _by_columns(rows, gaps)
        return
    for draft in drafts:
        checked = {_year(str(year), draft.row): draft.objects[year] for year in sorted(draft.objects)}
        if len(checked) < 2:
            continue
        if not gaps:
            _refuse_gap(checked, range(min(checked), max(checked) + 1), draft.row, "a row")
        yield _element(draft, checked)


def _by_columns(rows: Sequence[Row], gaps: bool) -> Iterator[DatedElement]:
    drafts = [_draft(row) for row in rows]
    everything = {year for draft in drafts for year in draft.objects}
    frame = range(min(everything), max(everything) + 1)
    for draft in drafts:
        if not gaps:
            _refuse_gap(draft.objects, frame, draft.row, "objects")
        if len(draft.objects) < 2:
            raise draft.row.error("the fact has a single year", "give it objects in two years or more")
        yield _element(draft, {year: draft.objects[year] for year in sorted(draft.objects)})


def _draft(row: Row) -> Drafted:
    values = row.values
    columns = {name: found for name in values if (found := _YEAR_COLUMN.fullmatch(name)) is not None}
    if not columns:
        mend = 'give columns "objects_2010", "objects_2011", ..., each a list of texts'
        raise row.error("there is no year in it", mend)
    objects = {_year(found[2], row, name): _objects(row, name) for name, found in columns.items()}
    question, subject, relation = (_text(row, name) for name in ("question", "subject", "relation"))
    if not question and not (subject and relation):
        raise row.error("there is no wording", 'give "subject" and "relation", or "question"')
    wording = question or f"{subject}, {relation}, {OBJECT}"
    identity = str(values.get("id") or "/".join(part for part in (relation, subject or question) if part))
    return Drafted(row, identity, subject or question, relation or "question", wording, objects)


def _element(draft: Drafted, objects: Mapping[int, tuple[str, ...]]) -> DatedElement:
    found, row = state_of(objects), draft.row
    stated = _text(row, "state").casefold()
    if stated and stated not in STATES:
        raise row.error(f'the state is "{stated}"', 'write "static" or "dynamic", or leave it out', "state")
    if stated and stated != found:
        what = f"the state is {stated}, and the objects {'change' if found == DYNAMIC else 'never change'}"
        raise row.error(what, "correct the state or the objects", "state")
    wrong = row.values.get("distractors", row.values.get("distractor")) or []
    wrong = [wrong] if isinstance(wrong, str) else wrong
    distractors = tuple(str(item).strip() for item in wrong)
    domain = _text(row, "domain")
    return DatedElement(draft.id, draft.subject, draft.relation, draft.wording, objects, found, domain, distractors)


def _year(text: str, row: Row, column: str = "date") -> int:
    if not re.fullmatch(r"\d{4}", text) or not YEARS[0] <= int(text) <= YEARS[1]:
        raise row.error(f'"{text}" is no year', f"write a year from {YEARS[0]} to {YEARS[1]}", column)
    return int(text)


def _objects(row: Row, column: str) -> tuple[str, ...]:
    value: Any = row.values[column]
    listed = value if isinstance(value, list) else [value]
    flat = [item for part in listed for item in (part if isinstance(part, list) else [part])]
    if not all(isinstance(item, str) for item in flat):
        raise row.error("an object is no text", "give a list of texts", column)
    found = tuple(dict.fromkeys(" ".join(item.split()) for item in flat if item.strip()))
    if not found:
        mend = "name what was right in that year, or leave the fact out"
        raise row.error("the list of objects is empty", mend, column)
    return found


def _text(row: Row, column: str) -> str:
    value = row.values.get(column)
    return " ".join(str(value).split()) if value is not None else ""


def _refuse_gap(objects: Mapping[int, Any], frame: Iterable[int], row: Row, what: str) -> None:
    missing = next((year for year in frame if year not in objects), None)
    if missing is not None:
        mend = f"give {what} of {missing}, or allow gaps (--gaps)"
        raise row.error(f"the year {missing} is missing inside the frame", mend)


def _refuse_repeated(elements: Sequence[DatedElement], where: str) -> None:
    seen: set[str] = set()
    for element in elements:
        if element.id in seen:
            mend = 'give each fact an "id" of its own'
            raise RecordError(f'two facts have the id "{element.id}"', where=where, mend=mend)
        seen.add(element.id)


def _within(elements: Sequence[DatedElement], years: tuple[int, int], where: str) -> list[DatedElement]:
    """The facts in the years from the first to the last one; those that have not two years there are left out."""
    first, last = years
    of_file = (min(min(e.objects) for e in elements), max(max(e.objects) for e in elements))
    if first >= last:
        raise SettingsError(f"the years are {first} to {last}", where="years", mend="let the second be the later")
    if first < of_file[0] or last > of_file[1]:
        what = f"the years {first} to {last} are not all in the file"
        raise SettingsError(what, where=where, mend=f"choose between {of_file[0]} and {of_file[1]}")
    found = []
    for element in elements:
        kept = {year: items for year, items in element.objects.items() if first <= year <= last}
        if len(kept) >= 2:
            found.append(replace(element, objects=kept, state=state_of(kept)))
    return found
