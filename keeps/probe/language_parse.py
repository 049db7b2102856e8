"""Which option a model means, read from what it wrote in any language: a cascade, and the route that it took.

After the official code of Agarwal et al. 2025 (arXiv:2505.14990). One rule after the other is asked for exactly one
option: the whole option ("B. Oslo"), its letter, its text; first in all that was written, then in what follows
``final_answer``, then in the first line of that. What is left is for the likeness of meaning, which the caller has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from keeps.data.languages import FINAL, letters
from keeps.numerics.text_scores import exact_match, token_f1

LETTER_RULES = ("word", "space", "anywhere")
SIMILAR, LIKELIHOOD, NONE = "similar in meaning", "log-probability", "none"
RIGHT_FROM = 0.5  # F1 from which a free answer is right
_LATIN = "A-Za-z0-9À-ɏ"
_FINAL_TEXT = re.compile(rf'"?{FINAL}"?\s*:\s*"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Told:
    """An option by its index, and the rule that found it; -1 where there is none."""

    option: int
    route: str


def parse_option(
    text: str, choices: Sequence[str], *, letter_rule: str = "word", longest: bool = True, final_first: bool = False
) -> Told | None:
    """The option that ``text`` names, or None where no rule finds exactly one.

    >>> parse_option('{"final_answer": "B"}', ["Rome", "Oslo"])
    Told(option=1, route='letter')
    >>> parse_option("New York, not York? York!", ["York", "New York"], longest=False)

    Args:
        letter_rule: a letter counts where it stands as a ``"word"``, before a ``"space"`` (the official code), or
            ``"anywhere"`` (its first version).
        longest: an option inside a longer one that is named does not count; the official code lets it count.
        final_first: look behind ``final_answer`` before all that was written, so that options that the model only
            considered do not count.
    """
    names = letters(len(choices))
    full = [f"{letter}. {choice}" for letter, choice in zip(names, choices, strict=True)]
    rules: list[tuple[str, Callable[[str], list[int]]]] = [
        ("option", lambda part: _found(part, full, longest)),
        ("letter", lambda part: [index for index, name in enumerate(names) if _has_letter(part, name, letter_rule)]),
        ("text", lambda part: _found(part.casefold(), [choice.casefold() for choice in choices], longest)),
    ]
    for place, part in _parts(text, final_first):
        for rule, find in rules:
            found = find(part)
            if len(found) == 1:
                return Told(found[0], rule + place)
    return None


def free_answer(text: str) -> str:
    """A free answer: what stands under ``final_answer``, else the first line.

    >>> free_answer('{"reasoning_in_french": "...", "final_answer": "Paris"}'), free_answer("Oslo\\nI think")
    ('Paris', 'Oslo')
    """
    found = _FINAL_TEXT.search(text)
    if found:
        return found[1].strip()
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def free_right(text: str, answers: Sequence[str]) -> bool:
    """Whether a free answer equals an accepted one, or shares tokens with it for an F1 of one half.

    >>> free_right("the city of Oslo", ["Oslo"]), free_right("Bergen", ["Oslo"])
    (True, False)
    """
    return any(exact_match(text, answer) or token_f1(text, answer) >= RIGHT_FROM for answer in answers)


def _parts(text: str, final_first: bool) -> list[tuple[str, str]]:
    whole = [("", text.strip())]
    start = text.find(FINAL)
    if start < 0:
        return whole
    tail = text[start + len(FINAL) :].strip()
    final = [(" after final_answer", tail), (" in its first line", tail.split("\n")[0].strip())]
    return final + whole if final_first else whole + final


def _has_letter(text: str, letter: str, rule: str) -> bool:
    if rule == "anywhere":
        return letter in text
    if rule == "space":
        return f"{letter} " in text
    # Only Latin letters go on: Chinese and Japanese put no space between a word and the letter.
    return re.search(rf"(?<![{_LATIN}]){letter}(?![{_LATIN}])", text) is not None


def _found(text: str, options: Sequence[str], longest: bool) -> list[int]:
    """Indices of the options that occur in ``text``, not only inside an occurrence of a longer one."""
    spans = {index: _spans(text, option) for index, option in enumerate(options)}
    named = [index for index, own in spans.items() if own]
    if not longest:
        return named
    return [index for index in named if any(not _inside(span, index, spans) for span in spans[index])]


def _spans(text: str, option: str) -> list[tuple[int, int]]:
    return [(found.start(), found.end()) for found in re.finditer(re.escape(option), text)]


def _inside(span: tuple[int, int], index: int, spans: dict[int, list[tuple[int, int]]]) -> bool:
    length = span[1] - span[0]
    return any(
        start <= span[0] and span[1] <= end and end - start > length
        for other, own in spans.items()
        if other != index
        for start, end in own
    )
