"""Edits to learn or calibrate on: of a file, or made of facts, and never about what is being edited."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from keeps.data.edit_facts import edits_from_facts
from keeps.data.edits import Edit, read_edits
from keeps.data.records import Fact
from keeps.data.rows import path_mode
from keeps.data.select import load_records
from keeps.errors import EmptySetError


def other_edits(spec: str, edits: Sequence[Edit], *, seed: int = 0) -> tuple[Edit, ...]:
    """The edits that ``spec`` names (see :func:`keeps.data.select.load_records`, or a file of edits), without those
    whose subject or prompt is among ``edits``.

    Raises:
        EmptySetError: none is left.
        KeepsError: as :func:`keeps.data.edits.read_edits` and :func:`keeps.data.select.load_records`.

    >>> found = other_edits("world:symbol#4", [])
    >>> len(found), found[0].relation
    (4, 'symbol')
    """
    if path_mode(Path(spec)) is not None:
        found = read_edits(Path(spec))
    else:
        facts = [record for record in load_records(spec) if isinstance(record, Fact)]
        pool = [record for record in load_records("world") if isinstance(record, Fact)] if facts else []
        found = edits_from_facts(facts, pool=pool, seed=seed)
    taken = {edit.subject.casefold() for edit in edits if edit.subject} | {edit.prompt.casefold() for edit in edits}
    left = tuple(e for e in found if e.subject.casefold() not in taken and e.prompt.casefold() not in taken)
    if not left:
        mend = "name more facts, or a file of other edits"
        raise EmptySetError("every one of these edits is about what is being edited", where=spec, mend=mend)
    return left
