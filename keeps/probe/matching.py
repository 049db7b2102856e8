"""When an answer counts as right: the text begins with an accepted answer, at a word's end."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_QUOTES = "\"'“”‘’`*_"  # quotation marks, and the emphasis of Markdown
_LEADING = re.compile(rf"^[\s{_QUOTES}:]+")
_TRAILING = re.compile(rf"[\s{_QUOTES}]+$")
_ARTICLE = re.compile(r"^(the|a|an)\s+")
_NUMBER_GOES_ON = re.compile(r"[.,]\d")


def normalised(text: str) -> str:
    """``text`` without case, accents, quotes around it and a leading article, spaces made single.

    >>> normalised(' "The  Côte  d’Azur" ')
    "cote d'azur"
    """
    return _ARTICLE.sub("", _plain(text))


def matches(text: str, answers: Sequence[str]) -> bool:
    """Whether ``text`` begins with one of ``answers`` and the next character does not continue the word.

    >>> matches(" 47. It is a metal", ["47"]), matches(" 479", ["47"]), matches("4.7", ["4"])
    (True, False, False)
    """
    said = _plain(text)
    for answer in answers:
        wanted = _plain(answer)
        if not wanted:  # an answer of quotation marks alone, such as the sign of multiplication
            if answer.strip() and text.strip().startswith(answer.strip()):
                return True
        elif _begins(said, wanted) or _begins(_ARTICLE.sub("", said), _ARTICLE.sub("", wanted)):
            return True
    return False


def _plain(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text.replace("’", "'"))
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter)).casefold()
    return re.sub(r"\s+", " ", _TRAILING.sub("", _LEADING.sub("", letters)))


def _begins(said: str, wanted: str) -> bool:
    """Whether ``wanted`` stands at the beginning of ``said`` and neither its word nor its number goes on."""
    if not said.startswith(wanted):
        return False
    following = said[len(wanted) :]
    if wanted[-1].isdigit() and _NUMBER_GOES_ON.match(following):
        return False
    return not following[:1].isalnum()
