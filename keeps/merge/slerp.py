"""SLERP: from one model to another along the arc between them instead of the chord (Shoemake, SIGGRAPH 1985).

The mean of two vectors is shorter than both. On the arc, ``theta = sin((1-t) W) / sin(W) a + sin(t W) / sin(W) b``
with ``W`` the angle between the flattened tensors, the length stays between theirs. Nearly parallel tensors (``|cos
W| > parallel``) are joined along the chord.

Use when: exactly two models are blended; two fine-tunes that went far apart shall be joined halfway; layers near the
input shall come from one model and layers near the output from the other.

It needs two models and no base: ``t=0`` is the first, ``t=1`` the second. Angles are those of whole tensors, computed
in float64. It guarantees that lengths are not removed (only the angle is of unit vectors), and t=0 and t=1 bit for
bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keeps.registry import method
from keeps.settings import setting
from keeps.weights.merge_method import Chunk, Merged, MergeMethod, MergeSettings, Stage
from keeps.weights.products import Gram, cosines


@dataclass(frozen=True, kw_only=True)
class SLERPSettings(MergeSettings):
    """Settings of SLERP."""

    t: float = setting(0.5, "Where between the first (0) and the second model (1)", ge=0, le=1)
    parallel: float = setting(0.9995, "Cosine beyond which the chord is taken", gt=0, lt=1, advanced=True)


def arc_weights(gram: NDArray[np.float64], t: float, parallel: float) -> tuple[float, float]:
    """Factors of both vectors, from their inner products ``(2, 2)``."""
    cosine = float(cosines(gram)[0, 1])
    if abs(cosine) > parallel:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


@method(
    "slerp",
    verb="merge",
    paper="doi:10.1145/325334.325242",
    summary="Joins two models along the arc between them, which keeps their length.",
    card="mergekit_peer",
    needs=(),
    fits=("any checkpoint",),
)
class SLERP(MergeMethod):
    """See the top of this file."""

    Settings = SLERPSettings
    fewest = 2
    most = 2

    def stages(self) -> Sequence[Stage]:
        """The angle between the tensors."""
        return (Gram("models"),)

    def merge(self, chunk: Chunk) -> Merged:
        """Both, times their factors."""
        t = float(chunk.one("t"))
        if t in (0, 1):
            return Merged(chunk.tuned[int(t)])
        first, second = arc_weights(chunk.stats[Gram.name], t, float(chunk.one("parallel")))
        return Merged(np.float32(first) * chunk.tuned[0] + np.float32(second) * chunk.tuned[1])
