"""EMMET: many facts at once, each met exactly: ROME for a batch (arXiv:2403.14236).

ROME asks that its one key gets its value exactly, MEMIT that many keys get theirs nearly. EMMET asks for all exactly,
and moves what the layer reads elsewhere least among the updates that do:

    dW = R (K^T C^-1 K)^-1 K^T C^-1

which is MEMIT's update in the limit lambda = 0, and ROME's for one edit. By default it writes to one block.

Use when: a batch of facts must be met exactly in the weights; ROME is wanted for several edits solved together.

Needs: edits that name their subject, no two with the same key. Guarantees: every key gets its value exactly; rank n
for n edits, of which each can be withdrawn; the model as it was after ``undo()``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from keeps.numerics.editing import Moment, least_squares
from keeps.registry import method
from keeps.settings import setting
from keeps.training.locate_blocks import ManyBlocks
from keeps.training.locate_settings import ManyLayersSettings


@dataclass(frozen=True, kw_only=True)
class EMMETSettings(ManyLayersSettings):
    """Settings of EMMET."""

    beside: ClassVar[int] = 0  # one block, as in the paper

    layers: tuple[int, ...] | None = setting(
        None, "Blocks that are edited, from 0 (default: one, a fifth of the way up)"
    )


@method(
    "emmet",
    verb="edit",
    card="knowedit",
    paper="arXiv:2403.14236",
    summary="Write many facts at once into one layer, each met exactly: ROME for a batch.",
    needs=("edits",),
    forms=("lora", "merged"),
)
class EMMET(ManyBlocks):
    """Equality-constrained mass model editing."""

    Settings = EMMETSettings

    def solve(self, layer: int, keys: Tensor, moment: Moment) -> Tensor:
        """(K^T C^-1 K)^-1 K^T C^-1."""
        del layer
        return least_squares(keys, moment, 0.0)
