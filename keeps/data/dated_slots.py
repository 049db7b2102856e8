"""Invariant, updated and new statements of dated facts: what was true in one year and what is in another.

Two layouts are read, one JSON object a line:

- one row a fact: ``subject``, ``relation`` and ``objects_YEAR`` for several years, each a list (empty where nothing
  was true); the wording is ``statement`` (with a blank), or a template of the relation, or the relation's own words;
- one row a fact and year: ``statement`` or ``query`` (with a blank), ``date``, ``answers``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keeps.data.readers import file_rows
from keeps.data.rows import Row
from keeps.data.slots import BLANK, INVARIANT, KINDS, NEW, UPDATED, Slot, checked_slots, with_blank
from keeps.data.triples import relation_words, squeezed, template_of
from keeps.errors import EmptySetError, SettingsError

_YEAR_KEY = re.compile(r"objects_(\d{1,4})")
_DATE = re.compile(r"(\d{4})(?!\d)")
_NO_TEMPLATES: Mapping[str, str] = {}


@dataclass
class DatedFact:
    """What was true in each year, in words."""

    id: str
    statement: str
    years: dict[int, tuple[str, ...]] = field(default_factory=dict)


def dated_slots(
    path: Path | str, before: int, after: int, *, templates: Mapping[str, str] = _NO_TEMPLATES
) -> tuple[Slot, ...]:
    """The facts of a file as three tasks, which are called by their kinds.

    Invariant is what lost no object between the two years; updated, what has other objects only; new, what had no
    object before (an empty list). What lost some objects and kept others, has none after, or is not dated in both
    years belongs nowhere and is left out.

    Args:
        before, after: years.
        templates: relation to template, such as ``"{h} plays for {t}"``.

    Raises:
        SettingsError: ``after`` is not later than ``before``.
        EmptySetError: no fact has both years.
        RecordError: a row lacks what it needs, or a statement has no blank.
    """
    if after <= before:
        raise SettingsError(f"before is {before} and after is {after}", where="years", mend="let after be the later")
    facts = list(read_dated(path, templates=templates))
    found = [slot for fact in facts if (slot := _slot(fact, before, after)) is not None]
    if not found:
        years = sorted({year for fact in facts for year in fact.years})
        known = ", ".join(map(str, years[:12])) or "none"
        what = f"no fact is dated both {before} and {after}"
        raise EmptySetError(what, where=str(path), mend=f"choose among its years: {known}")
    return checked_slots(sorted(found, key=lambda slot: KINDS.index(slot.kind)), where=str(path))


def is_dated_file(path: Path) -> bool:
    """Whether the first row of a file has years."""
    row = next(iter(file_rows(path)), None)
    return row is not None and (any(_YEAR_KEY.fullmatch(name) for name in row.values) or "date" in row.values)


def read_dated(path: Path | str, *, templates: Mapping[str, str] = _NO_TEMPLATES) -> Iterator[DatedFact]:
    """The facts of a file of either layout, in order of first appearance.

    Raises:
        EmptySetError: there is no row.
        RecordError: a row lacks what it needs, or a statement has no blank.
    """
    facts: dict[str, DatedFact] = {}
    seen: Counter[str] = Counter()
    rows = 0
    for rows, row in enumerate(file_rows(Path(path)), 1):  # noqa: B007  (counted)
        fact = _whole(row, templates) if any(_YEAR_KEY.fullmatch(key) for key in row.values) else _one_year(row)
        known = facts.setdefault(fact.statement, fact)
        if known is fact:
            seen[fact.id] += 1
            fact.id = fact.id if seen[fact.id] == 1 else f"{fact.id}-{seen[fact.id]}"
            continue
        for year, objects in fact.years.items():
            known.years[year] = tuple(dict.fromkeys((*known.years.get(year, ()), *objects)))
    if not rows:
        raise EmptySetError("there is no row", where=str(path), mend="add at least one dated fact")
    yield from facts.values()


def _whole(row: Row, templates: Mapping[str, str]) -> DatedFact:
    values = row.values
    years = {int(found[1]): _objects(row, key) for key in values if (found := _YEAR_KEY.fullmatch(key)) is not None}
    wording = values.get("statement") or values.get("query")
    if wording:
        statement = with_blank(str(wording), row.place)
    else:
        if not values.get("subject") or not values.get("relation"):
            raise row.error("there is no wording", 'give "subject" and "relation", or "statement" with a blank')
        relation = squeezed(str(values["relation"]))
        template = template_of(templates.get(relation, relation_words(relation)), row.place)
        said = template.replace("{h}", squeezed(str(values["subject"]))).replace("{t}", BLANK)
        statement = with_blank(said, row.place)
    return DatedFact(str(values.get("id") or statement), statement, years)


def _one_year(row: Row) -> DatedFact:
    wording = row.values.get("statement") or row.values.get("query")
    date = _DATE.search(str(row.values.get("date", "")))
    if not wording or date is None or "answers" not in row.values:
        mend = 'give "objects_YEAR" columns, or "statement", "date" and "answers"'
        raise row.error("this is no dated fact", mend)
    statement = with_blank(str(wording), row.place)
    identity = str(row.values.get("pair_id", row.values.get("id", statement)))
    return DatedFact(identity, statement, {int(date[1]): _objects(row, "answers")})


def _objects(row: Row, column: str) -> tuple[str, ...]:
    value: Any = row.values[column]
    items = [] if value in (None, "") else value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) for item in items):
        raise row.error("an object is no text", "give a list of texts", column)
    return tuple(dict.fromkeys(squeezed(item) for item in items if item.strip()))


def _slot(fact: DatedFact, before: int, after: int) -> Slot | None:
    if before not in fact.years or after not in fact.years:
        return None
    old, now = fact.years[before], fact.years[after]
    if not now:
        return None
    if not old:
        return Slot(fact.id, NEW, fact.statement, now, kind=NEW)
    stayed = {item.casefold() for item in old} & {item.casefold() for item in now}
    if not stayed:
        return Slot(fact.id, UPDATED, fact.statement, now, old, UPDATED)
    if all(item.casefold() in stayed for item in old):
        return Slot(fact.id, INVARIANT, fact.statement, now, kind=INVARIANT)
    return None
