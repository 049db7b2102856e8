"""How alike two short answers are: exact match, shared tokens, longest common subsequence. Pure Python.

Sources:
    Rajpurkar, Zhang, Lopyrev, Liang, "SQuAD", EMNLP 2016 (arXiv:1606.05250): normalisation, exact match, token F1.
    Bai et al., "KGQuiz", WWW 2024 (arXiv:2310.09725): the longest common subsequence over the longer text.
    Hirschberg, "A linear space algorithm for computing maximal common subsequences", CACM 18 (1975): one row a time.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Literal

Unit = Literal["characters", "tokens"]
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise_answer(text: str) -> str:
    """``text`` in lower case, without punctuation and articles, spaces made single.

    A text of which nothing would be left, such as ``"+"`` or the letter ``"A"``, keeps what it has.

    >>> normalise_answer("The  Hague, (city)"), normalise_answer("A"), normalise_answer(" + ")
    ('hague city', 'a', '+')
    """
    plain = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    letters = " ".join("".join(letter for letter in plain if not _punctuation(letter)).split())
    return without_articles(letters) or letters or plain


def without_articles(text: str) -> str:
    """The words of a text in lower case that are no English article, single blanks between them.

    >>> without_articles("the  cat and a dog")
    'cat and dog'
    """
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(prediction: str, gold: str) -> float:
    """1 where both are the same after normalisation, else 0; an empty prediction scores 0."""
    predicted = normalise_answer(prediction)
    return float(bool(predicted) and predicted == normalise_answer(gold))


def token_f1(prediction: str, gold: str) -> float:
    """Harmonic mean of the shares of tokens (bag of words) that each has in common with the other.

    >>> round(token_f1("New York City", "York"), 3)
    0.5
    """
    return bag_f1(normalise_answer(prediction).split(), normalise_answer(gold).split())


def bag_f1(one: Sequence[Hashable], other: Sequence[Hashable]) -> float:
    """Harmonic mean of the shares of items that each has in common with the other, order left out.

    >>> bag_f1("aab", "abc") == 4 / 6
    True
    """
    shared = (Counter(one) & Counter(other)).total()
    return 2 * shared / (len(one) + len(other)) if shared else 0.0


def longest_common_subsequence(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """Length of the longest sequence that both hold in this order, gaps allowed; O(n m) time, O(m) space.

    >>> longest_common_subsequence("ABCBDAB", "BDCABA")
    4
    """
    row = [0] * (len(other) + 1)
    for item in one:
        diagonal = 0
        for column, mate in enumerate(other, 1):
            above = row[column]
            row[column] = diagonal + 1 if item == mate else max(above, row[column - 1])
            diagonal = above
    return row[-1]


def lcs_ratio(prediction: str, gold: str, *, unit: Unit = "characters") -> float:
    """Longest common subsequence over the longer of the two normalised texts, in [0, 1].

    Args:
        unit: of characters, or of tokens; the paper does not say which.

    >>> lcs_ratio("Paris", "paris"), lcs_ratio("", "Paris"), lcs_ratio("New York", "York", unit="tokens")
    (1.0, 0.0, 0.5)

    Raises:
        ValueError: another unit.
    """
    if unit not in ("characters", "tokens"):
        raise ValueError(f"unit is {unit!r}, not characters or tokens")
    predicted, wanted = normalise_answer(prediction), normalise_answer(gold)
    one, other = (predicted, wanted) if unit == "characters" else (predicted.split(), wanted.split())
    longest = max(len(one), len(other))
    return longest_common_subsequence(one, other) / longest if longest else 0.0


def _punctuation(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "PS"
