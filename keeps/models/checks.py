"""Refusals that name the item: what every call of a LanguageModel checks before it computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keeps.errors import ContextLengthError, RecordError

Pair = tuple[list[int], list[int]]  # token ids of a prompt and of what follows it


def check_list(values: Sequence[Any], name: str) -> None:
    """Refuse one text in place of a list of texts, which would be read letter by letter."""
    if isinstance(values, str):
        raise RecordError(f"{name} is one text, not a list of texts", mend="put it in a list")


def check_questions(questions: Sequence[str]) -> None:
    """Refuse one text in place of a list of questions, and an empty question."""
    check_list(questions, "questions")
    for place, question in enumerate(questions):
        if not question.strip():
            raise RecordError("the question is empty", where=f"item {place + 1}", mend="give a question")


def check_lengths(prompts: Sequence[Any], others: Sequence[Any], name: str) -> None:
    """Refuse lists of unequal length; ``name`` says what ``others`` are."""
    check_list(prompts, "prompts")
    check_list(others, name)
    if len(prompts) != len(others):
        raise RecordError(f"there are {len(prompts)} prompts and {len(others)} {name}", mend="give one for each prompt")


def check_context(number: int, text: str, tokens: int, limit: int, model: str) -> None:
    """Refuse an item of more tokens than the context holds."""
    if tokens > limit:
        raise ContextLengthError(
            f"an item needs {tokens} tokens and the context of {model} has {limit}",
            where=f"item {number + 1}: {short(text)}",
            mend="shorten the text, split it, or take a model with a longer context",
        )


def located(number: int, encode: Callable[..., Any], *texts: str) -> Any:
    """``encode(*texts)``, naming the item where it is refused."""
    try:
        return encode(*texts)
    except RecordError as error:
        raise RecordError(error.what, where=f"item {number + 1}, {error.where}", mend=error.mend) from None


def checked_pairs(
    encode: Callable[[str, str], Pair],
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    room: int,
    limit: int,
    model: str,
) -> list[Pair]:
    """Prompts and answers as token ids; each prompt with its answer, or with ``room`` tokens, fits the context."""
    check_lengths(prompts, answers, "answers")
    pairs = []
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        start, rest = located(number, encode, prompt, answer)
        check_context(number, prompt, len(start) + max(len(rest), room), limit, model)
        pairs.append((start, rest))
    return pairs


def short(text: str, length: int = 60) -> str:
    """The beginning of a text, quoted, for a message.

    >>> short("a" * 100, 5)
    "'aaaa…'"
    """
    return repr(text if len(text) <= length else text[: length - 1] + "…")
