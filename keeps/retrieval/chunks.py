"""Texts cut into chunks of whole sentences, each known by its exact place: ``text[start:end]`` is the chunk.

Sentences are packed one after another up to a number of words; neighbouring chunks share a sentence, so that what
stands on a border is found from both sides. A sentence that is too long is cut between words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from keeps.errors import SettingsError
from keeps.retrieval.words import UNSPACED

Span = tuple[int, int]
WORDS = 120  # the default length of a chunk: about half of what the embedded encoder was tuned on (256 word pieces)
OVERLAP = 1  # sentences
_LONGEST = 100  # characters that count as one word where there are no blanks
_END = re.compile(
    r"""[.!?…]["'”’)\]]*\s+(?=["'“‘(\[]*[A-Z0-9À-ÖØ-ÞΑ-ΩА-Я])"""  # a capital or a digit begins the next one
    r"|[。！？]|\n\s*"
)
_UNIT = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]{{1,{_LONGEST}}}")


def sentence_spans(text: str) -> list[Span]:
    """Where the sentences of ``text`` stand, without blanks around them; line breaks end sentences too.

    >>> [("Dr Ek came. He left!\\n- a list"[a:b]) for a, b in sentence_spans("Dr Ek came. He left!\\n- a list")]
    ['Dr Ek came.', 'He left!', '- a list']
    """
    borders = [0, *(found.end() for found in _END.finditer(text)), len(text)]
    return [span for start, end in pairwise(borders) if (span := _bare(text, start, end))]


def chunk_spans(text: str, words: int = WORDS, overlap: int = OVERLAP) -> list[Span]:
    """Where the chunks of ``text`` stand: whole sentences, at most ``words`` words, ``overlap`` sentences in common.

    Every character that is no blank lies in a chunk, starts and ends both increase, and no chunk begins or ends with
    a blank. Signs of scripts without blanks count as words, and so do every 100 characters without one.

    Raises:
        SettingsError: ``words`` is below 1 or ``overlap`` below 0.

    >>> chunk_spans("One two. Three four. Five six.", words=4, overlap=1)
    [(0, 20), (9, 30)]
    """
    if words < 1 or overlap < 0:
        what = f"chunks of {words} words with {overlap} sentences in common cannot be cut"
        raise SettingsError(what, where="chunks", mend="take at least one word, and no negative overlap")
    pieces = [piece for span in sentence_spans(text) for piece in _pieces(text, span, words)]
    spans = []
    first = 0
    while first < len(pieces):
        last, room = first, words - pieces[first][1]
        while last + 1 < len(pieces) and pieces[last + 1][1] <= room:
            last += 1
            room -= pieces[last][1]
        spans.append((pieces[first][0][0], pieces[last][0][1]))
        if last + 1 == len(pieces):
            break
        # the sentences in common must leave room for the next one, or the chunk would say nothing new
        following, room = last + 1, words - pieces[last + 1][1]
        while following - 1 > first and last + 1 - following < overlap and pieces[following - 1][1] <= room:
            following -= 1
            room -= pieces[following][1]
        first = following
    return spans


def count_units(text: str) -> int:
    """Words of ``text`` as chunks count them.

    >>> count_units("three plain words"), count_units("東京"), count_units("x" * 250)
    (3, 2, 3)
    """
    return sum(1 for _ in _UNIT.finditer(text))


def _pieces(text: str, span: Span, words: int) -> Iterator[tuple[Span, int]]:
    """A sentence with its number of words; in several pieces if it has more than ``words``."""
    units = [found.span() for found in _UNIT.finditer(text, *span)]
    for first in range(0, len(units), words):
        held = units[first : first + words]
        yield (held[0][0], held[-1][1]), len(held)


def _bare(text: str, start: int, end: int) -> Span | None:
    """The span without blanks at its ends; None if nothing else is in it."""
    inside = text[start:end]
    bare = inside.strip()
    if not bare:
        return None
    begin = start + inside.index(bare[0])
    return begin, begin + len(bare)
