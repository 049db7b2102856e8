"""Questions with answers that belong to other questions: wrong, of the right form, and never seen by the model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from keeps.data.records import Dialogue, Example, Fact, Record, RecordSet
from keeps.errors import RecordError
from keeps.training.batches import stable_seed


def answers_of(record: Record) -> tuple[str, ...]:
    """All right answers of a record, the canonical one first; none of one that asks nothing."""
    if isinstance(record, Fact):
        return record.answers
    if isinstance(record, Example):
        return (record.answer, *record.aliases)
    return (record.messages[-1][1],) if isinstance(record, Dialogue) else ()


def with_answer(record: Record, answer: str, suffix: str = "") -> Record:
    """The record with another answer; ``suffix`` is put behind its id.

    Raises:
        RecordError: it asks nothing.
    """
    name = f"{record.id}{suffix}"
    if isinstance(record, Fact):
        return replace(record, id=name, answers=(answer,), choices=())
    if isinstance(record, Example):
        return replace(record, id=name, answer=answer, aliases=(), choices=())
    if isinstance(record, Dialogue):
        return replace(record, id=name, messages=(*record.messages[:-1], (record.messages[-1][0], answer)))
    what = f'the record "{record.id}" asks nothing that could be answered otherwise'
    raise RecordError(what, mend="give facts or examples, or take a method for running text (npo, rmu)")


def mismatched(questions: RecordSet, others: RecordSet, *, count: int, seed: int) -> RecordSet:
    """Each question ``count`` times, each time with an answer of ``others`` drawn by seed and id alone.

    Answers are drawn without repetition while there are enough, and never a right one of the question.

    Raises:
        RecordError: a question asks nothing, or ``others`` has no other answer.
    """
    pool = sorted({text.strip() for record in others for text in answers_of(record)[:1] if text.strip()})
    found: list[Record] = []
    for record in questions:
        right = {text.strip().casefold() for text in answers_of(record)}
        wrong = [text for text in pool if text.casefold() not in right]
        if not wrong:
            with_answer(record, "")  # refuses what asks nothing with a better reason
            what = f'there is no other answer for the record "{record.id}"'
            raise RecordError(what, where=others.source, mend="give questions with several answers as --retain")
        draws = _drawn(wrong, count, random.Random(stable_seed("mismatch", seed, record.id)))
        found += [with_answer(record, text, f"#{number}") for number, text in enumerate(draws)]
    return RecordSet(questions.source, tuple(found))


def _drawn(texts: Sequence[str], count: int, draw: random.Random) -> list[str]:
    whole = [text for _ in range(count // len(texts)) for text in texts]
    return whole + draw.sample(list(texts), count % len(texts))
