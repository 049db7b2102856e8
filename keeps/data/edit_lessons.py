"""Edits as something to train on: each its prompt and new object, among ordinary records that are nothing new."""

from __future__ import annotations

import random
from collections.abc import Sequence

from keeps.data.edits import Edit
from keeps.data.records import Example, Fact, Record, RecordSet
from keeps.errors import EmptySetError

FILLERS = 7  # ordinary records beside a new one: batches of eight, as in arXiv:2504.09522


def edit_lessons(
    edits: Sequence[Edit], keep: RecordSet | None = None, *, fillers: int = FILLERS, seed: int = 0
) -> RecordSet:
    """One example an edit, and ``fillers`` records of ``keep`` for each, drawn by ``seed`` without replacement.

    Of a fact of ``keep`` the first wording is taken. Without ``keep``, or where it has no records, edits stand alone.

    >>> edit_lessons([Edit("1", "Oslo", "Oslo lies in", "Sweden")]).records[0].answer
    'Sweden'

    Raises:
        EmptySetError: there is no edit.
    """
    if not edits:
        raise EmptySetError("there is no edit", where="lessons", mend="give at least one")
    lessons: list[Record] = [Example(f"edit:{edit.id}", edit.prompt, edit.target_new) for edit in edits]
    others = [] if keep is None else [_once(record) for record in keep]
    count = min(fillers * len(edits), len(others))
    lessons += random.Random(f"{seed}\nfillers").sample(others, count)
    return RecordSet("edits", tuple(lessons))


def _once(record: Record) -> Record:
    if isinstance(record, Fact):
        return Example(f"keep:{record.id}", record.prompts[0], record.answers[0])
    return record
