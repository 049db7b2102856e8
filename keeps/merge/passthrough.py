"""Passthrough: layers of models, stacked as a YAML file says, unchanged or times a factor (SOLAR, arXiv:2312.15166).

A deeper model is made of a shallower one by repeating a range of its layers, and trained on from there.

Use when: layers of one or two models are stacked; a deeper model is wanted as a start of training; a tensor shall be
scaled; a checkpoint shall be converted to another type or cut into other files.

It needs one model for each tensor, usually chosen by ``slices`` in a YAML file. ``scale`` multiplies. It guarantees
that with scale 1 and the same type tensors keep their bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from keeps.registry import method
from keeps.settings import setting
from keeps.weights.merge_method import Chunk, Merged, MergeMethod, MergeSettings


@dataclass(frozen=True, kw_only=True)
class PassthroughSettings(MergeSettings):
    """Settings of passthrough."""

    scale: float = setting(1.0, "Factor of every weight")


@method(
    "passthrough",
    verb="merge",
    paper="arXiv:2312.15166",
    summary="Takes each tensor from one model: stacks layers, scales, converts.",
    card="mergekit_peer",
    needs=(),
    fits=("any checkpoint",),
)
class Passthrough(MergeMethod):
    """See the top of this file."""

    Settings = PassthroughSettings
    most = 1
    by_model = ("scale",)
    implied: ClassVar[dict[str, Any]] = {"scale": 1.0}

    def merge(self, chunk: Chunk) -> Merged:
        """The tensor, times the factor."""
        scale = float(chunk.tensor.of_each("scale")[0])
        return Merged(chunk.tuned[0] if scale == 1 else chunk.tuned[0] * np.float32(scale))
