"""TIES: trim, elect a sign, and average only what agrees with it (Yadav et al., arXiv:2306.01708).

Most of what training moved is noise, and models cancel each other where they moved in opposite directions. So

1. of each task vector only the ``density`` largest entries are kept, over the whole model;
2. each element gets the sign of the sum of what is left, ``gamma = sign(sum_t w_t tau_t)``;
3. entries with that sign are averaged (the others and the trimmed ones do not count), and added to the base.

Use when: task vectors contradict each other; many fine-tunes of one base model are merged; small changes are noise;
the per-tensor report shows many sign conflicts.

It needs the base model. ``scope=model`` trims over all tensors together, as the paper does; ``scope=tensor`` trims
each alone, as other tools do, so that a tensor that hardly changed keeps as large a share as one that changed much. A
sum of exactly 0 takes the sign of most elements of the same scope (``zero_sign=majority``), or counts as positive
(``zero_sign=plus``). Of equal magnitudes at the threshold all are kept. It guarantees that with one model, density 1
and scale 1 the result is that model, and thresholds that are exact whatever the size of the model.
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
from keeps.weights.halves import Floats
from keeps.weights.magnitudes import THRESHOLDS, largest, without_small
from keeps.weights.merge_method import Chunk, DeltaSettings, Merged, MergeMethod, Stage, TensorInfo, added
from keeps.weights.sampled_thresholds import threshold_stages


@dataclass(frozen=True, kw_only=True)
class TIESSettings(DeltaSettings):
    """Settings of TIES."""

    density: float = setting(0.2, "Share of each task vector that is kept", ge=0, le=1)
    scale: float = setting(1.0, "Factor of what is added to the base", ge=-10, le=10)
    scope: Literal["model", "tensor"] = setting("model", "What the largest are chosen from: all tensors, or each alone")
    zero_sign: Literal["majority", "plus"] = setting("majority", "Sign of an element whose sum is exactly 0")
    normalize: bool = setting(True, "Average what agrees, instead of adding it up")


@method(
    "ties",
    verb="merge",
    paper="arXiv:2306.01708",
    summary="Trims small changes, elects a sign for each weight, averages what agrees with it.",
    card="mergekit_peer",
    needs=(),
    fits=("any checkpoint",),
)
class TIES(MergeMethod):
    """See the top of this file."""

    Settings = TIESSettings
    needs_base = True
    by_model = ("density",)
    implied: ClassVar[dict[str, Any]] = {"density": 1.0, "scope": "tensor", "zero_sign": "plus"}
    settings: TIESSettings

    def stages(self) -> Sequence[Stage]:
        """Thresholds; the majority of the signs in one more pass where it is asked for."""
        whole = self.settings.scope == "model"
        thresholds = threshold_stages(largest("density"), whole_model=whole)
        return (*thresholds, MajoritySign(whole)) if self.settings.zero_sign == "majority" else thresholds

    def merge(self, chunk: Chunk) -> Merged:
        """Trim, elect, average."""
        assert chunk.base is not None
        trimmed = trim(chunk.deltas, chunk.stats[THRESHOLDS])
        weights = chunk.of_each("weight")
        weighted = trimmed * weights
        positive = elected_positive(weighted, chunk.stats.get(MajoritySign.name, True))
        update = agreeing_mean(weights, weighted, positive, chunk.one("normalize"))
        update *= np.float32(chunk.one("scale"))
        return Merged(added(chunk.base, update), trimmed != 0)


def trim(deltas: Floats, thresholds: NDArray[np.uint32]) -> Floats:
    """``deltas`` ``(models, n)`` without the entries whose magnitude is below that of their model's threshold.

    Args:
        thresholds: bits of magnitudes, ``(models, 1)``.
    """
    return without_small(deltas, thresholds)


class MajoritySign(Stage):
    """Whether more elected signs are positive than negative, over the same scope as the trimming."""

    name = "majority_sign"

    def __init__(self, whole_model: bool) -> None:
        self.whole_model = whole_model

    def measure(self, chunk: Chunk) -> NDArray[np.int64]:
        """Counts of positive and negative sums ``(2,)``."""
        weighted = trim(chunk.deltas, chunk.stats[THRESHOLDS]) * chunk.of_each("weight")
        not_negative = np.count_nonzero(elected_positive(weighted, True))
        positive = np.count_nonzero(elected_positive(weighted, False))
        return np.array([positive, weighted.shape[1] - not_negative], dtype=np.int64)

    def finish(self, total: NDArray[Any], tensor: TensorInfo, stats: Mapping[str, Any]) -> bool:
        """True for positive, also where both are as many."""
        del tensor, stats
        return bool(total[0] >= total[1])
