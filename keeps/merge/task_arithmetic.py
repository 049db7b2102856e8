"""Task arithmetic: what each model learned is a vector, and vectors add (Ilharco et al., arXiv:2212.04089).

``tau_t = theta_t - theta_0`` is what training moved; ``theta = theta_0 + scale * sum_t w_t tau_t`` has learned all of
it, and a negative weight takes it away again. Of the ways to merge without data this is the one that an independent
study of language models found reliable (arXiv:2511.21437).

Use when: fine-tunes of one base model shall become one model that has learned all of them; a skill shall be taken out
of a model again; a merge without trimming is wanted; you do not know which merge to take.

It needs the base model that all of them started from. ``scale`` is 0.3, about what several tasks want where nothing
can be tuned (0.29 in arXiv:2406.15479); with one model and scale 1 the result is that model. Differences are formed
in float32 whatever the models are stored in. It guarantees that scale 0 gives the base model bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from keeps.registry import method
from keeps.settings import setting
from keeps.weights.merge_method import Chunk, DeltaSettings, Merged, MergeMethod, added, weighted_sum


@dataclass(frozen=True, kw_only=True)
class TaskArithmeticSettings(DeltaSettings):
    """Settings of task arithmetic."""

    normalize: bool = setting(False, "Divide by the sum of the weights")


@method(
    "task_arithmetic",
    verb="merge",
    paper="arXiv:2212.04089",
    summary="Adds to the base what each model learned.",
    card="mergekit_peer",
    needs=(),
    fits=("any checkpoint",),
)
class TaskArithmetic(MergeMethod):
    """See the top of this file."""

    Settings = TaskArithmeticSettings
    needs_base = True
    implied: ClassVar[dict[str, Any]] = {"scale": 1.0}

    def merge(self, chunk: Chunk) -> Merged:
        """``theta_0 + scale * sum w tau``."""
        assert chunk.base is not None
        weights = chunk.of_each("weight")
        update = weighted_sum(weights, chunk.deltas)
        if chunk.one("normalize"):
            total = float(weights.sum())
            update /= np.float32(total if abs(total) >= 1e-8 else 1.0)
        update *= np.float32(chunk.one("scale"))
        return Merged(added(chunk.base, update))
