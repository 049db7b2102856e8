"""Karcher mean: the middle of several models on the sphere, SLERP for more than two (Karcher, CPAM 30, 1977).

The point from which the arcs to all models sum to nothing, ``sum_t w_t log_m(u_t) = 0`` with ``u_t`` the unit
vectors, is found by walking along that sum. It lies in the span of the models, so that the walk needs only their
inner products: no step of it touches a weight. The result has the weighted mean of their lengths.

Use when: three or more models that went far apart are blended without a base; a mean is wanted that does not shrink;
SLERP of more than two models.

It needs two or more models and no base. A tensor that is zero in a model is left out of the mean for that model. It
guarantees one more pass over the models whatever the number of steps, and inner products in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from keeps.errors import SettingsError
from keeps.registry import method
from keeps.settings import setting
from keeps.weights.merge_method import Chunk, Merged, MergeMethod, Stage, WeightedSettings, weighted_sum
from keeps.weights.products import Gram


@dataclass(frozen=True, kw_only=True)
class KarcherSettings(WeightedSettings):
    """Settings of the Karcher mean."""

    iterations: int = setting(100, "Most steps of the walk", ge=1)
    tolerance: float = setting(1e-10, "Length of a step at which the walk ends", gt=0, unit="radians")


def karcher_factors(
    gram: NDArray[np.float64], weights: NDArray[np.float64], iterations: int, tolerance: float
) -> NDArray[np.float64]:
    """Factors ``(models,)`` of the models in their Karcher mean, from their inner products ``(models, models)``."""
    norms = np.sqrt(np.diag(gram))
    some = norms > 0
    factors = np.zeros(len(norms))
    if not some.any():
        return factors
    lengths, share = norms[some], weights[some] / weights[some].sum()
    unit = gram[np.ix_(some, some)] / np.outer(lengths, lengths)
    point = _normalised(share.copy(), unit)
    for _ in range(iterations):
        cosine = np.clip(unit @ point, -1, 1)
        angle = np.arccos(cosine)
        sine = np.sin(angle)
        stretch = share * np.divide(angle, sine, out=np.ones_like(angle), where=sine > 1e-12)
        step = stretch - float(stretch @ cosine) * point
        length = math.sqrt(max(float(step @ unit @ step), 0.0))
        if length < tolerance:
            break
        point = _normalised(math.cos(length) * point + math.sin(length) / length * step, unit)
    factors[some] = point / lengths * float(share @ lengths)
    return factors


def _normalised(point: NDArray[np.float64], unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficients of the same direction with length 1."""
    square = float(point @ unit @ point)
    return point / math.sqrt(square) if square > 0 else point


@method(
    "karcher",
    verb="merge",
    paper="doi:10.1002/cpa.3160300502",
    summary="The middle of several models on the sphere: SLERP for more than two.",
    card="mergekit_peer",
    needs=(),
    fits=("any checkpoint",),
)
class Karcher(MergeMethod):
    """See the top of this file."""

    Settings = KarcherSettings
    fewest = 2
    implied: ClassVar[dict[str, Any]] = {"iterations": 10, "tolerance": 1e-5}

    @classmethod
    def from_yaml(cls, key: str, value: Any) -> tuple[str, Any] | None:
        """mergekit's names."""
        return super().from_yaml({"max_iter": "iterations", "tol": "tolerance"}.get(key, key), value)

    def values(self, models: int) -> dict[str, Any]:
        """See the base class; refuses weights of which no mean can be made."""
        found = super().values(models)
        if min(found["weight"]) < 0 or sum(found["weight"]) == 0:
            raise SettingsError("a mean has no negative weights", where="weights", mend="give weights above 0")
        return found

    def stages(self) -> Sequence[Stage]:
        """The inner products of the models."""
        return (Gram("models"),)

    def merge(self, chunk: Chunk) -> Merged:
        """The models, times their factors."""
        limits = int(chunk.one("iterations")), float(chunk.one("tolerance"))
        factors = karcher_factors(chunk.stats[Gram.name], chunk.tensor.of_each("weight"), *limits)
        return Merged(weighted_sum(factors.astype(np.float32)[:, None], chunk.tuned))
