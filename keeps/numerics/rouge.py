"""ROUGE-L: how much of a reference a text holds in its order. Pure Python.

Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", ACL workshop 2004, section 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from keeps.numerics.text_scores import longest_common_subsequence

Words = Literal["unicode", "rouge_score"]
_UNICODE = re.compile(r"[^\W_]+")
_ASCII = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class Rouge:
    """Shares in [0, 1]: of the reference that is found, of the text that belongs there, and their harmonic mean."""

    recall: float
    precision: float
    f1: float


def rouge_words(text: str, *, words: Words = "unicode", stem: Callable[[str], str] | None = None) -> list[str]:
    """The words that are compared, in lower case.

    Args:
        words: ``"unicode"`` takes letters and digits of every script; ``"rouge_score"`` those of ASCII alone, as the
            package of this name does.
        stem: applied to words of more than three letters; that package takes Porter's stemmer of NLTK.

    >>> rouge_words("The café's 2nd"), rouge_words("The café", words="rouge_score")
    (['the', 'café', 's', '2nd'], ['the', 'caf'])
    """
    if words not in ("unicode", "rouge_score"):
        raise ValueError(f'no words "{words}": unicode or rouge_score')
    found = _ASCII.findall(text.lower()) if words == "rouge_score" else _UNICODE.findall(text.casefold())
    return found if stem is None else [stem(word) if len(word) > 3 else word for word in found]


def rouge_l(text: str, reference: str, *, words: Words = "unicode", stem: Callable[[str], str] | None = None) -> Rouge:
    """ROUGE-L of ``text``: with L the longest common subsequence of words, L/|reference| and L/|text|.

    All are 0 where one of both has no word.

    >>> rouge_l("Oslo is a town in Norway", "Oslo is in Norway").recall
    1.0
    """
    said, wanted = (rouge_words(each, words=words, stem=stem) for each in (text, reference))
    return rouge_l_of_tokens(said, wanted)


def rouge_l_of_tokens(said: Sequence[str], wanted: Sequence[str]) -> Rouge:
    """The same of two lists of words."""
    common = longest_common_subsequence(said, wanted)
    if not common:
        return Rouge(0.0, 0.0, 0.0)
    return Rouge(common / len(wanted), common / len(said), 2 * common / (len(said) + len(wanted)))
