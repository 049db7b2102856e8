"""Dated facts in files with one row a fact and time: statements with a date, and questions with a span of years.

- ``query`` (or ``statement``) with a blank ``_X_``, ``date``, ``answers``, ``relation``: rows of the same statement
  are one fact. The layout of TempLAMA (Dhingra et al. 2022, arXiv:2106.15110) and of editing sets made from it.
- ``index``, ``relation``, ``question`` with "from 2004 to 2006" or "in 2004" in it, ``answers``: rows of the same
  index are one fact, asked in the words of its first question. The layout of the questions that people wrote for
  TimeQA (Chen et al. 2021, arXiv:2108.06314). Rows without an answer are not answerable, and questions without such
  a span cannot be dated; both are left out. An object counts in every year of its span.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keeps.data.rows import Row

OBJECT = "[Object]"  # stands for the object in a wording
BLANK = "_X_"
_MONTH = r"(?:(?:early|late|mid|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?[\s-]+)?"
_SPAN = re.compile(
    rf"\s*\b(?:from|in|between|during)\s+{_MONTH}(\d{{4}})\s*(?:to|and|until|till|-|–)\s*{_MONTH}(\d{{4}})\b", re.I
)
_ONE = re.compile(rf"\s*\b(?:in|during)\s+{_MONTH}(\d{{4}})\b", re.I)


@dataclass(frozen=True)
class Drafted:
    """A fact as read, and the row that stands for it in errors."""

    row: Row
    id: str
    subject: str
    relation: str
    wording: str
    objects: dict[int, tuple[str, ...]]


def is_by_statement(row: Row) -> bool:
    """Whether a row is a statement with a date."""
    return "date" in row.values and "answers" in row.values


def is_by_question(row: Row) -> bool:
    """Whether a row is a question with a span of years in its words."""
    return {"index", "question", "answers"} <= set(row.values)


def by_statement(rows: Sequence[Row]) -> Iterator[Drafted]:
    """One draft a statement.

    Raises:
        RecordError: a row lacks statement, date or answers, or dates a fact twice.
    """
    found: dict[str, Drafted] = {}
    for row in rows:
        query = str(row.values.get("query") or row.values.get("statement") or "")
        if query.count(BLANK) != 1:
            raise row.error("the statement has no blank, or several", f"write {BLANK} where the object stands", "query")
        year = str(row.values.get("date", ""))[:4]
        if not year.isdigit():
            raise row.error(f'"{year}" is no year', "give the date with a year of four digits", "date")
        relation = str(row.values.get("relation") or "statement")
        identity = re.sub(r"_\d{4}$", "", str(row.values.get("id") or query))
        draft = Drafted(row, identity, query.replace(BLANK, "").strip(" ."), relation, query.replace(BLANK, OBJECT), {})
        draft = found.setdefault(query, draft)
        if int(year) in draft.objects:
            raise row.error(f"the statement is dated {year} twice", "join the answers in one row", "date")
        draft.objects[int(year)] = _answers(row)
        if not draft.objects[int(year)]:
            mend = "name what was right in that year, or leave the row out"
            raise row.error("the list of objects is empty", mend, "answers")
    yield from found.values()


def by_question(rows: Sequence[Row]) -> Iterator[Drafted]:
    """One draft an index; rows without answers or without years are left out."""
    found: dict[str, Drafted] = {}
    for row in rows:
        question, answers = str(row.values["question"]), _answers(row)
        span = span_of(question)
        if span is None or not answers:
            continue
        (first, last), wording = span
        index = str(row.values["index"])
        subject = index.partition("#")[0].rpartition("/")[2].replace("_", " ")
        relation = str(row.values.get("relation") or index.rpartition("#")[2])
        draft = found.setdefault(index, Drafted(row, index, subject, relation, wording, {}))
        for year in range(first, last + 1):
            draft.objects[year] = tuple(dict.fromkeys((*draft.objects.get(year, ()), *answers)))
    yield from found.values()


def span_of(question: str) -> tuple[tuple[int, int], str] | None:
    """First and last year that a question names, and its words without them; None where it names no span.

    >>> span_of("Which team did he play for from Sep 2004 to 2006?")
    ((2004, 2006), 'which team did he play for?')
    >>> span_of("Who led it?") is None
    True
    """
    match = _SPAN.search(question) or _ONE.search(question)
    if match is None:
        return None
    first, last = int(match[1]), int(match[match.lastindex or 1])
    if last < first:
        return None
    words = " ".join((question[: match.start()] + " " + question[match.end() :]).split()).strip(" ,")
    words = re.sub(r"\s+([?.,])", r"\1", words)
    opening = words.split(" ", 1)[0]
    asks = opening.casefold() in ("which", "what", "who", "whom", "whose", "where", "at", "for", "how", "the", "was")
    return (first, last), words[0].lower() + words[1:] if asks else words


def _answers(row: Row) -> tuple[str, ...]:
    value = row.values["answers"]
    listed = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(" ".join(str(item).split()) for item in listed if item and str(item).strip()))
