"""Statements with a blank and their answers, as the sets of CKL hold them; and such sets made of dated facts.

========================= ======================================================================================
column                    holds
========================= ======================================================================================
``statement`` (``input``) the statement, with one blank: ``<extra_id_0>``, ``<mask>``, ``[MASK]``, ``_X_``, ``___``
``question``              instead: a question, which needs no blank
``answer`` (``output``)   an accepted answer, or a list of them (in a cell: a JSON array)
``old_answer``            what was right before; with ``new_answer`` in place of ``answer``
``id``                    unique in its task; the number of the row unless given
``kind``                  ``invariant``, ``updated`` or ``new``
``task``                  splits a file into tasks; one file is one task without it
========================= ======================================================================================

A JSON file id -> answers adds accepted answers (new ones, of updated facts). Source of the layout: the official data
of Jang et al. (arXiv:2110.03215).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keeps.data.readers import file_rows
from keeps.data.rows import Row, lines
from keeps.errors import EmptySetError, InputFileError, RecordError

INVARIANT, UPDATED, NEW = "invariant", "updated", "new"
KINDS = (INVARIANT, UPDATED, NEW)
BLANK = "___"  # as statements are written here
_BLANKS = re.compile(r"<extra_id_0>|<mask>|\[MASK\]|_X_|_{2,}")
STATEMENT, QUESTION = ("statement", "input"), "question"
ANSWERS, OLD, NEWER = ("answer", "answers", "output"), ("old_answer", "old_answers"), ("new_answer", "new_answers")
_TELLING = {*STATEMENT, *OLD, *NEWER, "output"}  # columns that no other kind of record has


@dataclass(frozen=True)
class Slot:
    """One statement to complete.

    Attributes:
        id: unique in its task.
        task: what it belongs to.
        statement: with :data:`BLANK` once, or a question without it.
        answers: accepted ones, the canonical one first; the new ones of an updated fact.
        old_answers: of an updated fact: what was right before, and would be stale now.
        kind: ``"invariant"``, ``"updated"``, ``"new"``, or ``""``.
    """

    id: str
    task: str
    statement: str
    answers: tuple[str, ...]
    old_answers: tuple[str, ...] = ()
    kind: str = ""

    @property
    def before_blank(self) -> str:
        """The text in front of the blank, which is all that a causal model may see; a question as it is.

        >>> Slot("1", "new", "The capital of Norway is ___ now.", ("Oslo",)).before_blank
        'The capital of Norway is'
        """
        return self.statement.partition(BLANK)[0].rstrip()


def is_slot_file(path: Path) -> bool:
    """Whether the first row of a file has a column that only statements with blanks have.

    Raises:
        InputFileError: the file cannot be read.
    """
    row = next(iter(file_rows(path)), None)
    return row is not None and bool(_TELLING & set(row.values))


def read_slots(path: Path | str, *, kind: str = "", answers: Path | str | None = None) -> tuple[Slot, ...]:
    """The slots of a CSV, TSV, JSONL, JSON or Parquet file.

    Args:
        kind: of all rows that do not say theirs. Otherwise it is told by columns (old and new answers) or by the
            name of the file, such as ``invariantLAMA.csv``.
        answers: JSON file id -> further accepted answers.

    Raises:
        InputFileError: a file cannot be read.
        EmptySetError: there is no row.
        RecordError: a statement without a blank or with two, no answer, an id twice in a task, another kind.
    """
    path = Path(path)
    more = read_answers(answers) if answers is not None else {}
    found = [_slot(row, number, path, kind) for number, row in enumerate(file_rows(path), 1)]
    if not found:
        raise EmptySetError("there is no statement in it", where=str(path), mend="add at least one row")
    return checked_slots((_with_answers(slot, more) for slot in found), where=str(path))


def read_answers(path: Path | str) -> dict[str, tuple[str, ...]]:
    """A JSON object id -> an answer or a list of answers.

    Raises:
        InputFileError: the file cannot be read, or holds something else.
    """
    path = Path(path)
    try:
        values = json.loads("".join(line for _, line in lines(path)))
    except json.JSONDecodeError as error:
        where, mend = f"{path}, line {error.lineno}", "check commas, double quotes and brackets there"
        raise InputFileError(f"the JSON is not valid ({error.msg})", where=where, mend=mend) from None
    if not isinstance(values, dict):
        mend = 'write an object such as {"1": ["Oslo"]}'
        raise InputFileError("the file is no object of ids and answers", where=str(path), mend=mend)
    return {str(key): _texts(value, f'{path}, id "{key}"') for key, value in values.items()}


def checked_slots(slots: Iterable[Slot], *, where: str) -> tuple[Slot, ...]:
    """The same slots, when none has the id of another one of its task.

    Raises:
        RecordError: an id stands twice.
    """
    found = tuple(slots)
    seen: set[tuple[str, str]] = set()
    for slot in found:
        if (slot.task, slot.id) in seen:
            mend = "give each statement its own id, or none"
            raise RecordError(f'the id "{slot.id}" stands twice in task "{slot.task}"', where=where, mend=mend)
        seen.add((slot.task, slot.id))
    return found


def with_blank(text: str, where: str) -> str:
    """``text`` with its blank written as :data:`BLANK`.

    >>> with_blank("Oslo is in <extra_id_0>.", "row 1")
    'Oslo is in ___.'

    Raises:
        RecordError: it has no blank, or several.
    """
    count = len(_BLANKS.findall(text))
    if count == 1:
        return " ".join(_BLANKS.sub(BLANK, text).split())
    what = "the statement has no blank" if count == 0 else f"the statement has {count} blanks"
    raise RecordError(what, where=where, mend=f"write {BLANK} once, where the answer belongs")


def _slot(row: Row, number: int, path: Path, kind: str) -> Slot:
    values = {name: value for name, value in row.values.items() if value not in (None, "", [])}
    said = next((name for name in (*STATEMENT, QUESTION) if name in values), None)
    if said is None:
        raise row.error("there is no statement", 'give "statement" with a blank, or "question"')
    text = _text(values[said], f'{row.place}, column "{said}"')
    statement = text if said == QUESTION else with_blank(text, f'{row.place}, column "{said}"')
    old, new = (_column(values, names, row) for names in (OLD, NEWER))
    answers = new or _column(values, ANSWERS, row)
    if bool(old) != bool(new):
        raise row.error("an old and a new answer go together", 'give both "old_answer" and "new_answer"')
    if not answers:
        raise row.error("there is no answer", 'give "answer", or "old_answer" and "new_answer"')
    own = str(values.get("kind") or kind or (UPDATED if old else _kind_of_name(path.stem)))
    if own not in ("", *KINDS):
        raise row.error(f'"{own}" is no kind of knowledge', f"write one of {', '.join(KINDS)}", "kind")
    identity = _text(values.get("id", number), f'{row.place}, column "id"')
    return Slot(identity, str(values.get("task", path.stem)), statement, answers, old, own)


def _kind_of_name(stem: str) -> str:
    """The kind that a file's name begins with.

    >>> _kind_of_name("newLAMA_easy"), _kind_of_name("Updated-2021"), _kind_of_name("news")
    ('new', 'updated', '')
    """
    found = re.match(r"(invariant|updated|new)(?=lama|[^a-z]|$)", stem.lower())
    return found[1] if found else ""


def _with_answers(slot: Slot, more: Mapping[str, tuple[str, ...]]) -> Slot:
    return replace(slot, answers=tuple(dict.fromkeys((*slot.answers, *more.get(slot.id, ())))))


def _column(values: Mapping[str, Any], names: Iterable[str], row: Row) -> tuple[str, ...]:
    name = next((name for name in names if name in values), None)
    if name is None:
        return ()
    value = values[name]
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            raise row.error("the list is not valid JSON", 'write ["one", "two"]', name) from None
    return _texts(value, f'{row.place}, column "{name}"')


def _texts(value: Any, where: str) -> tuple[str, ...]:
    items = value if isinstance(value, (list, tuple)) else [value]
    found = tuple(dict.fromkeys(_text(item, where) for item in items))
    if not found:
        raise RecordError("the list is empty", where=where, mend="give at least one answer")
    return found


def _text(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
        raise RecordError("the value is empty or no text", where=where, mend="give a text")
    return " ".join(str(value).split())
