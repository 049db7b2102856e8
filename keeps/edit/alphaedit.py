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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.data.records import RecordSet
from keeps.models.changes import AdapterChange
from keeps.models.language_model import LanguageModel
from keeps.models.moments import stored_null_basis
from keeps.numerics.editing import Moment, in_null_space
from keeps.registry import method
from keeps.settings import setting
from keeps.training.locate_edit import LocateAndEdit, Spread, together
from keeps.training.locate_settings import ManyLayersSettings
from keeps.weights.files import load_tensors, save_tensors

KEYS = "keys/earlier.safetensors"  # K_p by layer, so that later edits spare these


@dataclass(frozen=True, kw_only=True)
class AlphaEditSettings(ManyLayersSettings):
    """Settings of AlphaEdit."""

    order: str = setting(
        "sequential", "batch: solved together; sequential: one after another", choices=("batch", "sequential")
    )
    threshold: float = setting(2e-2, "Eigenvalue of C below which a direction counts as unused", gt=0)
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
class AlphaEdit(LocateAndEdit):
    """Null-space constrained knowledge editing."""

    Settings = AlphaEditSettings

    def __init__(self, settings: AlphaEditSettings) -> None:
        super().__init__(settings)
        self.earlier: dict[int, Tensor] = {}  # layer -> K_p (in, p)

    def continue_from(self, folder: Path) -> None:
        """Spare the keys of the edits in ``folder``, on top of which the next ones are made."""
        path = folder / KEYS
        self.earlier = {int(name): keys for name, keys in load_tensors(path).items()} if path.exists() else {}

    def __call__(
        self, model: LanguageModel, edits: Sequence[Edit], keep: RecordSet | None = None, *, run: Run
    ) -> AdapterChange:
        """Write the edits, leave a LoRA folder in ``run.folder``, and give the weights back."""
        del keep  # the null space of C protects what the layers read elsewhere
        spared = dict(self.earlier)
        bases: dict[int, Tensor] = {}

        def spread(moments: Mapping[int, Moment]) -> Spread:
            for layer, moment in moments.items():
                bases[layer] = stored_null_basis(moment.matrix, self.settings.threshold)
            run.measures["null_space_share"] = min(u.shape[1] / u.shape[0] for u in bases.values())

            def solve(layer: int, keys: Tensor) -> Tensor:
                earlier = spared.get(layer)
                return in_null_space(
                    keys, bases[layer], None if earlier is None else earlier.to(keys), self.settings.strength
                )

            return solve

        def remember(keys: Mapping[int, Tensor]) -> None:
            for layer, new in keys.items():
                spared[layer] = torch.cat([spared[layer].to(new), new], dim=1) if layer in spared else new

        name = type(self).info.name  # type: ignore[attr-defined]
        options: dict[str, Any] = {"method": name, "spread": spread, "objective": self.objective(), "after": remember}
        change = together(model, edits, self.settings, run, **options)
        path = run.folder / KEYS
        path.parent.mkdir(exist_ok=True)
        save_tensors(path, {str(layer): keys.float().cpu().contiguous() for layer, keys in spared.items()})
        return change
