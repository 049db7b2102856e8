"""Questions as users give them: a text or several, or records with the answers that are accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keeps.data.records import Example, Fact, RecordSet
from keeps.data.select import load_records, sampled
from keeps.errors import EmptySetError, RecordError, SettingsError


@dataclass(frozen=True)
class Asked:
    """Questions with their accepted answers; no answers where nobody knows them."""

    ids: tuple[str, ...]
    questions: tuple[str, ...]
    expected: tuple[tuple[str, ...], ...]

    @property
    def gradable(self) -> bool:
        """Whether every question has an accepted answer."""
        return all(self.expected)


def asked_of(questions: str | Sequence[str] | RecordSet, *, from_file: bool, limit: int | None) -> Asked:
    """The questions to ask; with ``from_file`` those of a file or set of records.

    Raises:
        SettingsError: the limit is below 1.
        EmptySetError, RecordError: there is no question, or an empty one.
        KeepsError: the file cannot be read.
    """
    if limit is not None and limit < 1:
        raise SettingsError(f"limit is {limit}", where="limit", mend="ask at least one question")
    if isinstance(questions, RecordSet) or from_file:
        records = load_records(questions if isinstance(questions, RecordSet) else str(questions))
        kept = [record for record in records if isinstance(record, (Fact, Example))]
        if not kept:
            mend = "give rows with question (or prompt) and answer"
            raise EmptySetError("there is no question with an answer", where=records.source, mend=mend)
        kept = [r for r in kept if isinstance(r, (Fact, Example))] if limit is None else sampled(kept, limit)
        rows = [_row(record) for record in kept]
        return Asked(*(tuple(column) for column in zip(*rows, strict=True)))
    texts = [questions] if isinstance(questions, str) else list(questions)
    texts = texts[:limit]
    if not texts or not all(text.strip() for text in texts):
        raise RecordError("there is no question, or an empty one", where="question", mend="give a question")
    return Asked(tuple(str(n + 1) for n in range(len(texts))), tuple(texts), ((),) * len(texts))


def _row(record: Any) -> tuple[str, str, tuple[str, ...]]:
    if isinstance(record, Fact):
        return record.id, record.prompts[0], record.answers
    return record.id, record.prompt, (record.answer, *record.aliases)
