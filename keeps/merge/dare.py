"""DARE: drop most of each task vector at random and stretch the rest (Yu et al., arXiv:2311.03099).

``tau' = m * tau / density`` with ``m ~ Bernoulli(density)``: its expectation is ``tau``, and with few entries left,
models get in each other's way less often. What is left is added (``then=sum``) or goes through the election of TIES
(``then=ties``).

Use when: several fine-tunes with small, redundant changes are merged; task vectors interfere; a merge shall be drawn
again with another seed.

It needs the base model. ``rescale=expectation`` divides by the density, as the paper does; ``rescale=l1`` restores
the sum of magnitudes of each tensor, as other tools do; ``rescale=none`` leaves it. ``vectors=keep`` does not touch
tensors of one dimension, as the official code of arXiv:2406.15479 does. It guarantees that an element's draw depends
on seed, model, tensor and place alone, so that the result does not depend on threads, sizes or interruptions, and
that density 1 is task arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from keeps.registry import method
from keeps.settings import setting
from keeps.weights.consensus import agreeing_mean, elected_positive
from keeps.weights.merge_method import (
    Chunk,
    DeltaSettings,
    Merged,
    MergeMethod,
    Stage,
    TensorInfo,
    added,
    block_sums,
    weighted_sum,
)


@dataclass(frozen=True, kw_only=True)
class DARESettings(DeltaSettings):
    """Settings of DARE."""

    density: float = setting(0.1, "Share of each task vector that is kept", gt=0, le=1)
    rescale: Literal["expectation", "l1", "none"] = setting("expectation", "What the kept entries are stretched to")
    then: Literal["sum", "ties"] = setting("sum", "How the models are joined: added, or with an elected sign")
    vectors: Literal["drop", "keep"] = setting("drop", "Whether tensors of one dimension are dropped from too")
    normalize: bool = setting(False, "Divide by the weights of the models (with then=ties: of those that agree)")


@method(
    "dare",
    verb="merge",
    paper="arXiv:2311.03099",
    summary="Drops most of each change at random, stretches the rest, and adds.",
    card="mergekit_peer",
    needs=(),
    fits=("any checkpoint",),
)
class DARE(MergeMethod):
    """See the top of this file."""

    Settings = DARESettings
    needs_base = True
    by_model = ("density",)
    implied: ClassVar[dict[str, Any]] = {"scale": 1.0, "density": 1.0, "rescale": "l1"}
    settings: DARESettings

    @classmethod
    def from_yaml(cls, key: str, value: Any) -> tuple[str, Any] | None:
        """mergekit's ``rescale`` is a truth value."""
        if key == "rescale" and isinstance(value, bool):
            return "rescale", "l1" if value else "none"
        return super().from_yaml(key, value)

    def stages(self) -> Sequence[Stage]:
        """The magnitudes before and after dropping, where they are to be restored."""
        return (MaskedMagnitude(),) if self.settings.rescale == "l1" else ()

    def merge(self, chunk: Chunk) -> Merged:
        """Drop, stretch, join."""
        assert chunk.base is not None
        mask = kept(chunk)
        dropped = np.where(mask, chunk.deltas, np.float32(0)) * self._factors(chunk)
        weights = chunk.of_each("weight")
        if chunk.one("then") == "ties":
            weighted = dropped * weights
            update = agreeing_mean(weights, weighted, elected_positive(weighted, True), chunk.one("normalize"))
        else:
            update = weighted_sum(weights, dropped)
            if chunk.one("normalize"):
                total = float(weights.sum())
                update /= np.float32(total if abs(total) >= 1e-8 else 1.0)
        update *= np.float32(chunk.one("scale"))
        return Merged(added(chunk.base, update), mask & (chunk.deltas != 0))

    def _factors(self, chunk: Chunk) -> NDArray[np.float32]:
        """By how much each model's entries are stretched, ``(models, 1)``."""
        if chunk.one("rescale") == "l1":
            return chunk.stats[MaskedMagnitude.name].astype(np.float32)[:, None]
        if chunk.one("rescale") == "expectation" and not _untouched(chunk):
            return (1 / chunk.tensor.of_each("density")).astype(np.float32)[:, None]
        return np.ones((len(chunk.tuned), 1), dtype=np.float32)


def _untouched(chunk: Chunk) -> bool:
    return chunk.one("vectors") == "keep" and len(chunk.tensor.shape) < 2


def kept(chunk: Chunk) -> NDArray[np.bool_]:
    """Which entries are not dropped, bool ``(models, n)``."""
    return (
        np.ones(chunk.tuned.shape, dtype=bool)
        if _untouched(chunk)
        else chunk.random_mask(chunk.tensor.of_each("density"))
    )


class MaskedMagnitude(Stage):
    """Sum of magnitudes of each model's task vector, over that of what is kept of it."""

    name = "stretch"

    def measure(self, chunk: Chunk) -> NDArray[np.float64]:
        """Block sums ``(2 models, blocks)``: all of it, then what is kept."""
        magnitudes = np.abs(chunk.deltas)
        return block_sums(np.concatenate([magnitudes, np.where(kept(chunk), magnitudes, np.float32(0))]))

    def finish(self, total: NDArray[Any], tensor: TensorInfo, stats: Mapping[str, Any]) -> NDArray[np.float64]:
        """Factors ``(models,)``; 1 where nothing, or next to nothing, is there."""
        del stats
        before, after = total[: tensor.models], total[tensor.models :]
        some = (before >= 1e-7) & (after >= 1e-7)
        return np.divide(before, after, out=np.ones_like(before), where=some)
