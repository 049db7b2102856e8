"""ROME: one fact into one layer, by the smallest change that gives its subject a new value (arXiv:2202.05262).

The MLP of a middle block is read as a memory from keys (what its down-projection reads at the subject's last token)
to values. ROME finds the value v* that makes the model state the new fact, and writes it with an update of rank one
that moves what the layer reads elsewhere, C = E[k k^T], least:

    W' = W + (v* - W k_0) (C^-1 k*)^T / ((C^-1 k*)^T k_0)

k* is the mean key over self-generated prefixes, k_0 that of the bare prompt, so that the bare prompt gets v* exactly.
Several edits are made one after another, each on the model that holds those before it; after tens to hundreds of
them the model collapses, which the measure ``update_norm`` announces. C comes from local text.

Use when: one fact or a few are wrong and must be changed in the weights; the change must be small, exact and a plain
adapter; a single fact is to be corrected in seconds.

Needs: edits that name their subject. Guarantees: an update of rank one an edit; inputs orthogonal to C^-1 k* give
what they gave; the model as it was after ``undo()``.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from keeps.numerics.editing import Moment, rank_one
from keeps.registry import method
from keeps.settings import setting
from keeps.training.locate_blocks import OneBlock
from keeps.training.locate_settings import OneLayerSettings


@dataclass(frozen=True, kw_only=True)
class ROMESettings(OneLayerSettings):
    """Settings of ROME."""

    order: str = setting("sequential", "sequential: one edit after another", choices=("sequential",))


@method(
    "rome",
    verb="edit",
    card="knowedit",
    paper="arXiv:2202.05262",
    summary="Write one fact into one layer by an update of rank one that moves other inputs least.",
    needs=("edits",),
    forms=("lora", "merged"),
)
class ROME(OneBlock):
    """Rank-one model editing."""

    Settings = ROMESettings

    def update(self, w: Tensor, bare: Tensor, mean: Tensor, residual: Tensor, moment: Moment) -> tuple[Tensor, Tensor]:
        """Exact on the bare prompt."""
        del w
        return rank_one(residual, mean, moment, at=bare)
