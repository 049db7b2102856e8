"""EM, F1 and accuracy of answers that should follow a context, as FaithfulRAG measures them. Pure Python.

    exact     the prediction is the expected answer
    f1        harmonic mean of the shares of tokens that both have in common
    accuracy  the expected answer stands in the prediction
    within    the prediction stands in the expected answer: what the official code calls accuracy

Each is the best over the accepted answers. Texts are compared in lower case, underscores and punctuation as blanks,
without articles, numbers below 100 as words. ``within`` gives full marks to an empty prediction, or to "a" for every
answer with an a in it; it is there to compare with published figures. Zhang et al. 2025, arXiv:2506.08938.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

from keeps.numerics.memory_recall import Unit
from keeps.numerics.text_scores import bag_f1, without_articles

_BLANKS = str.maketrans(dict.fromkeys(string.punctuation + "‘’´", " "))
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


@dataclass(frozen=True)
class ContextScores:
    """Means over the predictions, in [0, 1]."""

    exact: float
    f1: float
    accuracy: float
    within: float


def in_words(text: str) -> str:
    """``text`` as it is compared.

    >>> in_words("The 21_Apples, e.g."), in_words("in 1915")
    ('twenty one apples e g', 'in 1915')
    """
    words = [_number(word) for word in text.lower().translate(_BLANKS).split()]
    return without_articles(" ".join(words))


def context_scores(
    predictions: Sequence[str], answers: Sequence[Sequence[str]], *, unit: Unit = "words"
) -> ContextScores:
    """All four of ``predictions``, each against its accepted answers.

    Args:
        unit: ``"words"`` looks for whole words in ``accuracy``; ``"characters"`` finds Oman in woman. ``within`` is
            of characters, as published.

    >>> context_scores(["It is Rome.", ""], [["Rome"], ["Paris"]])
    ContextScores(exact=0.0, f1=0.25, accuracy=0.5, within=0.5)

    Raises:
        ValueError: there is no prediction, the lists are of unequal length, or a prediction has no accepted answer.
    """
    if not predictions or len(predictions) != len(answers) or not all(answers):
        raise ValueError("give one list of accepted answers, none of them empty, for each prediction")
    if any(isinstance(accepted, str) for accepted in answers):
        raise ValueError("the answers of a prediction are one text; put them in a list")
    edge = " " if unit == "words" else ""
    rows = []
    for prediction, accepted in zip(predictions, answers, strict=True):
        said = in_words(prediction)
        wanted = [in_words(answer) for answer in accepted]
        stands = any(one and f"{edge}{one}{edge}" in f"{edge}{said}{edge}" for one in wanted)
        f1 = max(bag_f1(said.split(), one.split()) for one in wanted)
        rows.append((float(said in wanted), f1, float(stands), float(any(said in one for one in wanted))))
    return ContextScores(*(sum(column) / len(rows) for column in zip(*rows, strict=True)))


def _number(word: str) -> str:
    """A number below 100 in words, two of them where it has two digits; everything else as it is."""
    if not word.isdecimal() or int(word) >= 100:
        return word
    value = int(word)
    if value < len(_ONES):
        return _ONES[value]
    tens, ones = divmod(value, 10)
    return f"{_TENS[tens - 2]} {_ONES[ones]}" if ones else _TENS[tens - 2]
