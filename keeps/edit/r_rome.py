"""R-ROME: ROME with one key for both roles, so that no single edit disables the model (arXiv:2403.07175).

The published code of ROME takes the mean key over prefixes for the direction of the update and the key of the bare
prompt for its size. Where these two differ, the denominator may nearly vanish and a single edit destroys the model.
R-ROME takes the mean key k* for both:

    W' = W + (v* - W k*) (C^-1 k*)^T / ((C^-1 k*)^T k*)

so that W' k* = v* exactly, and the update is never larger than that needs.

Use when: facts are edited one after another and a single bad edit must not break the model; ROME gave an update that
is far too large.

Needs: edits that name their subject. Guarantees: an update of rank one an edit, W' k* = v*; the model as it was after
``undo()``.
"""

from __future__ import annotations

from torch import Tensor

from keeps.edit.rome import ROMESettings
from keeps.numerics.editing import Moment, rank_one
from keeps.registry import method
from keeps.training.locate_blocks import OneBlock


@method(
    "r_rome",
    verb="edit",
    card="knowedit",
    paper="arXiv:2403.07175",
    summary="ROME with one key for direction and size, so that no single edit disables the model.",
    needs=("edits",),
    forms=("lora", "merged"),
)
class RROME(OneBlock):
    """ROME rebuilt."""

    Settings = ROMESettings

    def update(self, w: Tensor, bare: Tensor, mean: Tensor, residual: Tensor, moment: Moment) -> tuple[Tensor, Tensor]:
        """Exact on the mean key. W (k_0 - k*) is what v* = W k_0 + delta lacks of W k*."""
        return rank_one(residual + w @ (bare - mean), mean, moment)
