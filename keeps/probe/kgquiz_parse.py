"""What a model meant: true or false, a letter, the words for a blank, the right name in a chain, a list of facts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from keeps.probe.kgquiz_items import LETTERS

_TRUTH = re.compile(r"\b(true|false)\b", re.IGNORECASE)
_WRAPPED = " \t\"'“”‘’`*_"
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s*")


def told_truth(text: str) -> bool | None:
    """The first of true and false in ``text``, whatever its case; None where there is neither.

    >>> told_truth("That is FALSE, not true"), told_truth("Perhaps")
    (False, None)
    """
    found = _TRUTH.search(text)
    return None if found is None else found[1].lower() == "true"


def told_choice(text: str, choices: Sequence[str]) -> int | None:
    """The index of the choice that ``text`` names, by its letter or in its words; None where it names none or several.

    A letter counts at the beginning, or after "answer is"; the words of a choice anywhere.

    >>> cities = ["Rome", "Oslo"]
    >>> told_choice("(B) Oslo", cities), told_choice("It is Rome.", cities), told_choice("Neither", cities)
    (1, 0, None)
    """
    letters = LETTERS[: len(choices)]
    said = text.strip(_WRAPPED + "\n")
    for index, choice in enumerate(choices):
        if said.rstrip(".").casefold() == choice.casefold():
            return index
    found = re.match(rf"\(?([{letters}])(?:[).:,]|\s*$|\s*\n)", said) or re.search(
        rf"\b[Aa]nswer(?: is)?:?\s*\(?([{letters}])\b", said
    )
    if found:
        return letters.index(found[1])
    named = [index for index, choice in enumerate(choices) if _names(said, choice)]
    return named[0] if len(named) == 1 else None


def told_blank(text: str, lead: str = "") -> str:
    """The words for the blank: the first line, without quotation marks, a final full stop or the statement before it.

    >>> told_blank('"The capital of Norway is Oslo."\\nQ: next', "The capital of Norway is")
    'Oslo'
    """
    line = next((line for line in text.splitlines() if line.strip()), "")
    said = line.strip(_WRAPPED)
    if lead and said.casefold().startswith(lead.casefold()):
        said = said[len(lead) :]
    said = re.sub(r"^\[?MASK\]?\s*(?:should be|is|=|:)\s*", "", said.strip(_WRAPPED), flags=re.IGNORECASE)
    return said.strip(_WRAPPED).removesuffix(".").strip(_WRAPPED)


def told_entity(text: str, parts: Sequence[str], slot: int) -> str:
    """The entity that ``text`` has at ``slot`` of a chain; the first line where the chain is not in it.

    >>> told_entity("Lyon | is in | France | has capital | Paris", ["Lyon", "is in", "Chad", "has capital", "Paris"], 2)
    'France'
    >>> told_entity("France.", ["Lyon", "is in", "Chad", "has capital", "Paris"], 2)
    'France'
    """
    for line in text.splitlines():
        pieces = [piece.strip(_WRAPPED) for piece in re.split(r"\||\t|->|→", line)]
        if len(pieces) == len(parts):
            return pieces[slot].removesuffix(".").strip()
    before, after = (re.escape(parts[slot + step]) for step in (-1, 1))
    found = re.search(rf"{before}[\s|]+(.+?)[\s|]+{after}", text, re.IGNORECASE)
    return found[1].strip(_WRAPPED) if found else told_blank(text)


def told_triples(text: str) -> list[tuple[str, str, str]]:
    """Lines of the form ``head | relation | tail``, each once; other lines are no facts.

    >>> told_triples("1. Oslo | is in | Norway\\nand so on\\n| | x")
    [('Oslo', 'is in', 'Norway')]
    """
    found = []
    for line in text.splitlines():
        parts = [" ".join(part.strip(_WRAPPED + "()").split()) for part in _BULLET.sub("", line).split("|")]
        if len(parts) == 3 and all(parts):
            found.append((parts[0], parts[1], parts[2].removesuffix(".")))
    return list(dict.fromkeys(found))


def told_sentences(text: str) -> list[str]:
    """The sentences of ``text``, each once, without numbers and bullets; those of a single word are none.

    >>> told_sentences("1. Oslo is in Norway. It has a harbour!\\n- Yes.")
    ['Oslo is in Norway.', 'It has a harbour!']
    """
    lines = (_BULLET.sub("", line) for line in text.splitlines())
    sentences = (" ".join(part.split()) for line in lines for part in _SENTENCE.split(line))
    return [sentence for sentence in dict.fromkeys(sentences) if " " in sentence]


def _names(said: str, choice: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(choice)}(?!\w)", said, re.IGNORECASE) is not None
