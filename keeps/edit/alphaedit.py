"""AlphaEdit: edits that stay in the null space of what a layer reads elsewhere (arXiv:2410.02355).

MEMIT balances new facts against old inputs by a weight. AlphaEdit lets the update see only directions that old inputs
hardly use: U are the eigenvectors of C with an eigenvalue below a threshold, P = U U^T, and

    dW = R K^T P (K_p K_p^T P + K K^T P + alpha I)^-1

K_p are the keys of earlier edits, which the update spares as well. So long sequences of edits do not wear the model
out as those of ROME and MEMIT do. By default edits are made one after another.

Use when: hundreds or thousands of facts are edited one after another and the model must not collapse; what a layer
does with ordinary text must not move.

Needs: edits that name their subject. Guarantees: dW (I - P) = 0; rank n in each block for n edits, of which each can
be withdrawn; the model as it was after ``undo()``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from keeps.data.edits import Edit
from keeps.models.changes import AdapterChange
from keeps.models.earlier_keys import EarlierKeys, read_keys, write_keys
from keeps.models.edit_rows import Row
from keeps.models.moments import stored_null_basis
from keeps.models.weight_writer import keys_of
from keeps.numerics.editing import Moment, SparedKeys
from keeps.numerics.nullspace import null_space
from keeps.registry import method
from keeps.settings import setting
from keeps.training.locate_blocks import ManyBlocks
from keeps.training.locate_edit import Steps
from keeps.training.locate_settings import ManyLayersSettings


@dataclass(frozen=True, kw_only=True)
class AlphaEditSettings(ManyLayersSettings):
    """Settings of AlphaEdit."""

    order: str = setting(
        "sequential", "batch: solved together; sequential: one after another", choices=("batch", "sequential")
    )
    threshold: float = setting(2e-2, "Eigenvalue of C below which a direction counts as unused", gt=0)
    energy: float | None = setting(
        None,
        "In place of the threshold: directions count as unused that together hold at most this share of what a layer "
        "reads (ours; the published threshold is one for models of several billion weights)",
        gt=0,
        lt=1,
    )
    strength: float = setting(1.0, "alpha: weight of the size of the update (L2)", gt=0)


@method(
    "alphaedit",
    verb="edit",
    card="knowedit",
    paper="arXiv:2410.02355",
    summary="Edits inside the null space of what a layer reads elsewhere, for long sequences of edits.",
    needs=("edits",),
    forms=("lora", "merged"),
)
class AlphaEdit(ManyBlocks):
    """Null-space constrained knowledge editing."""

    Settings = AlphaEditSettings

    def __init__(self, settings: AlphaEditSettings) -> None:
        super().__init__(settings)
        self.earlier: dict[int, EarlierKeys] = {}  # layer -> K_p of the edits below these
        self.held: dict[int, EarlierKeys] = {}  # and with those that are being made
        self.spared: dict[int, SparedKeys] = {}

    def continue_from(self, folder: Path) -> None:
        """Spare the keys of the edits in ``folder``, on top of which the next ones are made."""
        self.earlier = read_keys(folder)

    def begun(self, steps: Steps) -> None:
        """Find the null space of each layer, and what earlier edits read there."""
        self.held = dict(self.earlier)
        for layer, moment in steps.moments.items():
            self.spared[layer] = SparedKeys(self._unused(moment.plain), self.settings.strength)
            if layer in self.held:
                self.spared[layer].add(self.held[layer].keys)
        shares = [spared.basis.shape[1] / spared.basis.shape[0] for spared in self.spared.values()]
        steps.run.measures["null_space_share"] = min(shares)

    def _unused(self, moment: Tensor) -> Tensor:
        """U, the directions that old inputs hardly use, by eigenvalue or by energy."""
        if self.settings.energy is None:
            return stored_null_basis(moment, self.settings.threshold)
        return null_space(moment, 1 - self.settings.energy).basis.double()

    def solve(self, layer: int, keys: Tensor, moment: Moment) -> Tensor:
        """K^T P (K_p K_p^T P + K K^T P + alpha I)^-1."""
        del moment
        return self.spared[layer].update(keys)

    def remember(self, steps: Steps, edits: Sequence[Edit], rows: Sequence[Sequence[Row]]) -> None:
        """Spare the keys of these edits, as the written model gives them, from the next group on."""
        ids = [edit.id for edit in edits]
        for layer, found in keys_of(steps.model, rows, steps.layers, mean=self.settings.key_mean).mean.items():
            keys = found.T
            self.spared[layer].add(keys)
            before = self.held.get(layer, EarlierKeys((), torch.empty(len(keys), 0)))
            self.held[layer] = before.joined(ids, keys)

    def finished(self, steps: Steps, edits: Sequence[Edit]) -> AdapterChange:
        """Leave K_p beside the LoRA folder, so that later edits spare these."""
        change = super().finished(steps, edits)
        write_keys(steps.run.folder, self.held)
        return change
