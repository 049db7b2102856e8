"""How a corpus is cut and indexed; written beside the index, which is opened with the same."""

from __future__ import annotations

from dataclasses import dataclass

from keeps.retrieval.chunks import OVERLAP, WORDS
from keeps.retrieval.lexical import K1, B
from keeps.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class IndexSettings(Settings):
    """Settings of an index."""

    chunk_words: int = setting(WORDS, "Longest chunk", ge=1, le=10_000, unit="words")
    overlap: int = setting(OVERLAP, "Sentences that neighbouring chunks have in common", ge=0, le=100)
    stop_words: str = setting("none", "Words that are not indexed", choices=("none", "english"))
    k1: float = setting(K1, "BM25: how fast a repeated word stops to count", ge=0, advanced=True)
    b: float = setting(B, "BM25: how much long chunks are held back", ge=0, le=1, advanced=True)
