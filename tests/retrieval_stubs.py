"""An encoder without a model: a text is the sum of its words' directions, so the same text is the same vector."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from keeps.retrieval.words import words_of


class WordSums:
    """An Embedder of ``width`` numbers that counts what it encodes."""

    def __init__(self, fingerprint: str = "word-sums", width: int = 24) -> None:
        self.name = "word-sums"
        self.truncated = 0
        self.fingerprint = fingerprint
        self.width = width
        self.encoded: list[str] = []

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.encoded += texts
        return np.stack([self._vector(text) for text in texts])

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([self._vector(text) for text in texts])

    def _vector(self, text: str) -> NDArray[np.float32]:
        found = np.zeros(self.width)
        for word in words_of(text) or ["nothing"]:
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
            found += np.random.default_rng(seed).standard_normal(self.width)
        return (found / np.linalg.norm(found)).astype(np.float32)
