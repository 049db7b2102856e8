"""Model Stock: how far from the base to the mean, told by the angle between models (Jang et al., arXiv:2403.19522).

Fine-tunes lie on a thin shell around their centre. From the angle between their offsets from the base alone follows
the point of the plane through the mean that is nearest to the centre: ``t = N c / (1 + (N - 1) c)`` with ``c`` the
mean cosine of pairs, ``theta = t mean(theta_i) + (1 - t) theta_0``, for each tensor.

Use when: two or more fine-tunes of the same task shall become one strong model; there is no validation data to tune a
scale; a soup is wanted from few models.

It needs the base and two or more models. Where models contradict each other (``c < 0``) the formula leads away from
them; ``clip=yes`` stays at the base instead. Cosines are of whole tensors, in float64; 0 where a model did not change
a tensor. It guarantees the base where all offsets are orthogonal, and the mean where they are parallel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keeps.registry import method
from keeps.settings import setting
from keeps.weights.merge_method import Chunk, Merged, MergeMethod, MergeSettings, Stage, added
from keeps.weights.products import Gram, cosines


@dataclass(frozen=True, kw_only=True)
class ModelStockSettings(MergeSettings):
    """Settings of Model Stock."""

    clip: bool = setting(False, "Keep the ratio within 0 and 1 where models contradict each other")


def stock_ratio(gram: NDArray[np.float64]) -> float:
    """``t`` from the inner products ``(models, models)`` of the offsets."""
    table = cosines(gram)
    count = len(table)
    cosine = float(table[np.triu_indices(count, 1)].mean())
    below = 1 + (count - 1) * cosine
    return count * cosine / below if abs(below) > 1e-12 else 0.0


@method(
    "model_stock",
    verb="merge",
    paper="arXiv:2403.19522",
    summary="Goes from the base towards the mean as far as the angle between the models says.",
    card="mergekit_peer",
    needs=(),
    fits=("any checkpoint",),
)
class ModelStock(MergeMethod):
    """See the top of this file."""

    Settings = ModelStockSettings
    needs_base = True
    fewest = 2

    def stages(self) -> Sequence[Stage]:
        """The inner products of the offsets."""
        return (Gram("deltas"),)

    def merge(self, chunk: Chunk) -> Merged:
        """``theta_0 + t mean(theta_i - theta_0)``."""
        assert chunk.base is not None
        ratio = stock_ratio(chunk.stats[Gram.name])
        ratio = min(max(ratio, 0.0), 1.0) if chunk.one("clip") else ratio
        return Merged(added(chunk.base, np.float32(ratio) * chunk.deltas.mean(axis=0)))
