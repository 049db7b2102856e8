"""Words of a text as an index knows them, and the form in which two texts count as one."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

LONGEST_WORD = 100  # characters; the rest of a longer one (a key, an address in base64) says nothing to a reader
# Scripts that put no blanks between words: each sign counts as a word of its own.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_ASCII_WORD = re.compile(r"[^\W_]+", re.ASCII)
_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")


def normalised(text: str) -> str:
    """``text`` in compatible composed form, without case, with single blanks: two texts are duplicates if it is equal.

    >>> normalised("  Ｏslo\\nIS  a City ")
    'oslo is a city'
    """
    if text.isascii():
        return " ".join(text.lower().split())
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words_of(text: str) -> list[str]:
    """The words of ``text`` in order, normalised: letters and digits, cut at everything else.

    >>> words_of("The code is QX-4711; température 3.5")
    ['the', 'code', 'is', 'qx', '4711', 'température', '3', '5']
    >>> words_of("東京 city")
    ['東', '京', 'city']
    """
    plain = normalised(text)
    found = (_ASCII_WORD if plain.isascii() else _WORD).findall(plain)
    return [word[:LONGEST_WORD] for word in found] if len(plain) > LONGEST_WORD else found


def digest(*parts: str) -> str:
    """SHA-256 of texts, told apart from each other (32 hexadecimal digits)."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        found.update(f"{len(data)}:".encode())
        found.update(data)
    return found.hexdigest()[:32]


def without(words: Iterable[str], left_out: frozenset[str]) -> list[str]:
    """``words`` that are none of ``left_out``."""
    return [word for word in words if word not in left_out] if left_out else list(words)
