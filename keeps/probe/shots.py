"""Solved examples in front of a question: others of its group, never itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from keeps.contracts import Question
from keeps.errors import SettingsError


def with_shots(
    questions: Sequence[Question], shots: int, seed: int, *, pool: Sequence[Question] = ()
) -> list[Question]:
    """Every question with ``shots`` solved others of its group before each wording, one a line.

    Examples are in the first wording. Their order is that of a hash of seed and id, so that all questions of a
    group see the same ones, but an example does not see itself.

    Args:
        pool: where examples are taken from; by default ``questions``.

    Raises:
        SettingsError: ``shots`` is negative, or a group has too few other questions.
    """
    if shots < 0:
        raise SettingsError(f"shots is {shots}", where="shots", mend="choose 0 or more")
    if shots == 0:
        return list(questions)
    groups: dict[str, list[Question]] = {}
    for question in sorted(pool or questions, key=lambda item: hashlib.sha256(f"{seed}\n{item.id}".encode()).digest()):
        groups.setdefault(question.group, []).append(question)
    found = []
    for question in questions:
        others = [other for other in groups.get(question.group, ())[: shots + 1] if other.id != question.id][:shots]
        if len(others) < shots:
            what = f'"{question.group}" has {len(others)} other questions to show, not {shots}'
            raise SettingsError(what, where="shots", mend="choose fewer, or ask a larger group")
        solved = "\n".join(_completed(other) for other in others)
        found.append(replace(question, prompts=tuple(f"{solved}\n{prompt}" for prompt in question.prompts)))
    return found


def _completed(question: Question) -> str:
    prompt, answer = question.prompts[0], question.answers[0]
    return prompt + answer if prompt.endswith("+") else f"{prompt} {answer}"
