"""What is traced: facts of a set or a file, or what is true before the edits of a file."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from keeps.data.edit_layouts import own_layout
from keeps.data.edits import Edit, read_edits
from keeps.data.readers import file_rows
from keeps.data.records import Fact, RecordSet
from keeps.data.rows import path_mode
from keeps.data.select import load_records
from keeps.errors import EmptySetError, KeepsError, RecordError
from keeps.models.locate import mention


@dataclass(frozen=True)
class TracedFact:
    """A prompt that names its subject, and the answers that are accepted, the canonical one first."""

    id: str
    subject: str
    relation: str
    prompt: str
    answers: tuple[str, ...]


def traced_facts(data: str | Path | RecordSet, *, marks: Mapping[str, str] | None = None) -> list[TracedFact]:
    """The facts of a set or file in their first wording; of a file of edits, what is true before them.

    Raises:
        EmptySetError: there is no fact.
        RecordError: a prompt does not name its subject, or an edit does not say what is true.
        KeepsError: as :func:`keeps.data.edits.read_edits` and :func:`keeps.data.select.load_records`.
    """
    if isinstance(data, (str, Path)) and _holds_edits(Path(data)):
        found = [_of_edit(edit) for edit in read_edits(Path(data))]
    else:
        records = load_records(data, marks=marks)
        facts = [record for record in records if isinstance(record, Fact)]
        if not facts:
            mend = "name facts of the world, or a file of facts or edits with subjects"
            raise EmptySetError("there is no fact with a subject", where=records.source, mend=mend)
        found = [TracedFact(fact.id, fact.subject, fact.relation, fact.prompts[0], fact.answers) for fact in facts]
    for fact in found:
        try:
            mention(fact.prompt, fact.subject)
        except RecordError as error:
            raise RecordError(error.what, where=f"{fact.id}, {error.where}", mend=error.mend) from None
    return found


def _of_edit(edit: Edit) -> TracedFact:
    if not edit.target_true:
        mend = "give target_true: the answer before the edit, which is traced"
        raise RecordError("the edit does not say what is true", where=f"edit {edit.id}", mend=mend)
    return TracedFact(edit.id, edit.subject, edit.relation, edit.prompt, (edit.target_true,))


def _holds_edits(path: Path) -> bool:
    """Whether the first row of a file is an edit; what cannot be read is left to the reader of records to say."""
    if not stat.S_ISREG(path_mode(path) or 0):
        return False
    try:
        return any("target_new" in own_layout(row) for row in islice(file_rows(path), 1))
    except KeepsError:
        return False
