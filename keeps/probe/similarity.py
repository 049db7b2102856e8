"""Likeness of meaning between short texts: the cosine of their vectors, each text embedded once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

CLIP = 400  # characters of a text that are embedded: what models ramble must not exceed the encoder's context


class Encoder(Protocol):
    """Anything that turns texts into vectors of length 1, such as :class:`keeps.models.encoder.SentenceEncoder`."""

    def encode(self, texts: Sequence[str]) -> Tensor: ...


class TextSimilarity:
    """Cosines between texts; an empty text is like nothing, and a text is exactly like itself.

    Args:
        encoder: by default the embedded sentence encoder, loaded when first needed.
        name: where the encoder is loaded from; "" is the embedded one.
    """

    def __init__(self, encoder: Encoder | None = None, *, name: str = "") -> None:
        self._encoder, self.name = encoder, name
        self._rows: dict[str, int] = {}
        self._vectors: list[Tensor] = []

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """``(len(texts), width)`` float32 on the CPU; zeros for an empty text.

        Raises:
            MissingDependencyError: the embedded encoder is not installed.
            ModelLoadError: the named one cannot be loaded.
        """
        import torch

        keys = [_key(text) for text in texts]
        self._embed(key for key in keys if key)
        if not self._vectors:
            return torch.zeros(len(texts), 1)
        blank = torch.zeros_like(self._vectors[0])
        rows = [self._vectors[self._rows[key]] if key else blank for key in keys]
        return torch.stack(rows) if rows else torch.zeros(0, len(blank))

    def cosines(self, one: Sequence[str], other: Sequence[str]) -> list[float]:
        """The cosine of each text of ``one`` with the text of ``other`` in its place.

        Raises:
            ValueError: the lengths differ.
        """
        if len(one) != len(other):
            raise ValueError(f"{len(one)} texts cannot be compared with {len(other)} one by one")
        values = (self.vectors(one) * self.vectors(other)).sum(1).tolist() if one else []
        return [1.0 if _same(a, b) else value for a, b, value in zip(one, other, values, strict=True)]

    def matrix(self, one: Sequence[str], other: Sequence[str]) -> list[list[float]]:
        """Cosines of all with all, ``(len(one), len(other))``."""
        if not one or not other:
            return [[] for _ in one]
        values = (self.vectors(one) @ self.vectors(other).T).tolist()
        return [
            [1.0 if _same(a, b) else value for b, value in zip(other, row, strict=True)]
            for a, row in zip(one, values, strict=True)
        ]

    def _embed(self, keys: Iterable[str]) -> None:
        fresh = [key for key in dict.fromkeys(keys) if key not in self._rows]
        if not fresh:
            return
        if self._encoder is None:
            from keeps.models.encoder import SentenceEncoder

            self._encoder = SentenceEncoder.load(self.name or None)
        for key, vector in zip(fresh, self._encoder.encode(fresh), strict=True):
            self._rows[key] = len(self._vectors)
            self._vectors.append(vector)


def _key(text: str) -> str:
    return " ".join(text.split())[:CLIP].rstrip()


def _same(one: str, other: str) -> bool:
    return bool(_key(one)) and _key(one) == _key(other)
