"""Breadcrumbs: of each change neither the smallest nor the largest entries (Davari and Belilovsky, arXiv:2312.06795).

Small entries of a task vector are noise, and the very largest are outliers that hurt other tasks. In each tensor the
``gamma`` largest are left out, of the rest the largest are kept until ``density`` is reached, and what is left is
added.

Use when: single large changes of one fine-tune spoil the others; many fine-tunes of one base model are merged; a
sparse merge is wanted that does not depend on tuning.

It needs the base model. Where ``density`` and ``gamma`` together exceed 1, fewer of the largest are left out. Of
equal magnitudes at a threshold all are kept. It guarantees exact thresholds in memory that does not grow with the
model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from keeps.registry import method
from keeps.settings import setting
from keeps.weights.magnitudes import THRESHOLDS, magnitude_bits
from keeps.weights.merge_method import Chunk, DeltaSettings, Merged, MergeMethod, Stage, TensorInfo, added, weighted_sum
from keeps.weights.sampled_thresholds import threshold_stages


@dataclass(frozen=True, kw_only=True)
class BreadcrumbsSettings(DeltaSettings):
    """Settings of breadcrumbs."""

    density: float = setting(0.14, "Share of each task vector that is kept", gt=0, le=1)
    gamma: float = setting(0.007, "Share of the largest entries that is left out", ge=0, lt=1)


def band(numel: int, density: float, gamma: float) -> tuple[int, int]:
    """Ranks from the largest (1) of the first and the last entry that is kept.

    >>> band(1000, 0.5, 0.1), band(1000, 0.95, 0.1)
    ((101, 600), (51, 1000))
    """
    kept, left_out = int(density * numel), int(gamma * numel)
    left_out = min(left_out, numel - kept)
    return left_out + 1, left_out + kept


@method(
    "breadcrumbs",
    verb="merge",
    paper="arXiv:2312.06795",
    summary="Adds of each change neither the smallest entries nor the outliers.",
    card="mergekit_peer",
    needs=(),
    fits=("any checkpoint",),
)
class Breadcrumbs(MergeMethod):
    """See the top of this file."""

    Settings = BreadcrumbsSettings
    needs_base = True
    by_model = ("density", "gamma")
    implied: ClassVar[dict[str, Any]] = {"scale": 1.0, "density": 1.0, "gamma": 0.01}

    def stages(self) -> Sequence[Stage]:
        """The lower and the upper threshold of each tensor."""
        return threshold_stages(_ranks)

    def merge(self, chunk: Chunk) -> Merged:
        """Mask, then add."""
        assert chunk.base is not None
        bits, thresholds = magnitude_bits(chunk.deltas), chunk.stats[THRESHOLDS]
        mask = (bits >= thresholds[:, :1]) & (bits <= thresholds[:, 1:])
        kept = np.where(mask, chunk.deltas, np.float32(0))
        update = weighted_sum(chunk.of_each("weight"), kept) * np.float32(chunk.one("scale"))
        return Merged(added(chunk.base, update), kept != 0)


def _ranks(tensor: TensorInfo) -> NDArray[np.int64]:
    """Ranks of the lower and the upper threshold, ``(models, 2)``; nothing is kept where the band is empty."""
    rows = []
    for density, gamma in zip(tensor.of_each("density"), tensor.of_each("gamma"), strict=True):
        upper, lower = band(tensor.numel, density, gamma)
        rows.append([lower, upper] if lower >= upper else [0, 0])
    return np.array(rows, dtype=np.int64)
