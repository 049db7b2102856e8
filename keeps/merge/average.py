"""Average: the weighted mean of the models.

Fine-tunes of one pretrained model often lie in one basin of the loss, so that their mean is a good model too, and
often a better one than each ("model soups", arXiv:2203.05482). ``theta = sum_t w_t theta_t / sum_t w_t``.

Use when: several runs of the same training shall become one model; no base model is at hand; checkpoints of one run
shall be averaged; a first, safe merge.

It needs two or more models of one architecture, and no base. ``normalize=no`` leaves the division out. It guarantees
that the mean of a model with itself is the model, to the rounding of float32, and adds in the order of the models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from keeps.errors import SettingsError
from keeps.registry import method
from keeps.settings import setting
from keeps.weights.merge_method import Chunk, Merged, MergeMethod, WeightedSettings, weighted_sum


@dataclass(frozen=True, kw_only=True)
class AverageSettings(WeightedSettings):
    """Settings of the average."""

    normalize: bool = setting(True, "Divide by the sum of the weights")


@method(
    "average",
    verb="merge",
    paper="arXiv:2203.05482",
    summary="The weighted mean of the models.",
    card="mergekit_peer",
    needs=(),
    fits=("any checkpoint",),
)
class Average(MergeMethod):
    """See the top of this file."""

    Settings = AverageSettings
    fewest = 2

    def values(self, models: int) -> dict[str, Any]:
        """See the base class; refuses weights that sum to 0."""
        found = super().values(models)
        if self.settings.normalize and sum(found["weight"]) == 0:  # type: ignore[attr-defined]
            raise SettingsError("the weights sum to 0", where="weights", mend="give others, or --no-normalize")
        return found

    implied: ClassVar[dict[str, Any]] = {"normalize": True}

    def merge(self, chunk: Chunk) -> Merged:
        """``sum w theta / sum w``."""
        weights = chunk.of_each("weight")
        total = weighted_sum(weights, chunk.tuned)
        return Merged(total / np.float32(weights.sum()) if chunk.one("normalize") else total)
