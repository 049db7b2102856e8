"""Where a text speaks about given statements: sentences packed into chunks, chunks ranked by likeness to statements.

Module 2 of FaithfulRAG (arXiv:2506.08938): for each fact the ``per_fact`` chunks with the highest cosine, of all these
the ``keep`` best, each once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from keeps.retrieval.chunks import sentence_spans

ENCODED = 500  # characters of a text that are encoded: no tokenizer of words makes more tokens than characters
MOST_CHUNKS = 5000  # of one question's context
_SPAN = re.compile(r"<[^<>]{0,2000}>|\[[^\[\]]{0,2000}\]")


class Encoder(Protocol):
    """Texts as vectors of length 1."""

    def encode(self, texts: Sequence[str]) -> Tensor:
        """``(len(texts), width)`` float32."""
        ...


@dataclass(frozen=True)
class Aligned:
    """A chunk that speaks about a fact.

    Attributes:
        place: of the chunk in the context, from 0.
        score: cosine of chunk and fact.
        fact: the fact that it is most like.
    """

    chunk: str
    place: int
    score: float
    fact: str


def cleaned(context: str) -> str:
    """``context`` without marks in pointed or square brackets, blanks made single.

    >>> cleaned("Oslo <b>is</b>  a city.[2]")
    'Oslo is a city.'
    """
    return re.sub(r"\s+", " ", _SPAN.sub("", context)).strip()


def sentences(text: str) -> list[str]:
    """The sentences of ``text`` in order, without blanks around them; none is empty.

    >>> sentences('He left. "Why?" she asked. It was 3.5 km.')
    ['He left.', '"Why?" she asked.', 'It was 3.5 km.']
    """
    return [text[start:end] for start, end in sentence_spans(text)]


def chunked(text: str, words: int) -> list[str]:
    """Whole sentences packed one after another into chunks of at most ``words`` words; a longer sentence is its own.

    >>> chunked("One two. Three. Four five six seven.", 3)
    ['One two. Three.', 'Four five six seven.']
    """
    chunks: list[list[str]] = []
    room = 0
    for sentence in sentences(text):
        length = len(sentence.split())
        if not chunks or length > room:
            chunks.append([])
            room = words
        chunks[-1].append(sentence)
        room -= length
    return [" ".join(chunk) for chunk in chunks]


def best_chunks(likeness: Sequence[Sequence[float]], per_fact: int, keep: int) -> list[tuple[int, int, float]]:
    """Chunks by their best likeness to a fact among those that are ``per_fact`` best for one, at most ``keep``.

    Args:
        likeness: cosine of each fact (rows) with each chunk.

    Returns:
        ``(chunk, fact, cosine)``, best first; of equal ones the chunk that stands first. No chunk twice.

    >>> best_chunks([[0.9, 0.1], [0.2, 0.3]], per_fact=1, keep=2)
    [(0, 0, 0.9), (1, 1, 0.3)]
    """
    best: dict[int, tuple[float, int]] = {}
    for fact, row in enumerate(likeness):
        for chunk in sorted(range(len(row)), key=lambda place: (-row[place], place))[:per_fact]:
            if chunk not in best or row[chunk] > best[chunk][0]:
                best[chunk] = (row[chunk], fact)
    ranked = sorted(best, key=lambda chunk: (-best[chunk][0], chunk))
    return [(chunk, best[chunk][1], best[chunk][0]) for chunk in ranked[:keep]]


def align(facts: Sequence[str], chunks: Sequence[str], encoder: Encoder, *, per_fact: int, keep: int) -> list[Aligned]:
    """The chunks that speak about ``facts``, best first, no text twice; see :func:`best_chunks`."""
    if not facts or not chunks:
        return []
    chunks = chunks[:MOST_CHUNKS]
    vectors = encoder.encode([text[:ENCODED] for text in (*facts, *chunks)]).double()
    likeness = (vectors[: len(facts)] @ vectors[len(facts) :].T).tolist()
    found: dict[str, Aligned] = {}  # passages that overlap hold the same sentence in several places
    for chunk, fact, score in best_chunks(likeness, per_fact, len(chunks)):
        found.setdefault(chunks[chunk], Aligned(chunks[chunk], chunk, score, facts[fact]))
    return list(found.values())[:keep]
