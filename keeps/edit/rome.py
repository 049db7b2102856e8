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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.data.records import RecordSet
from keeps.models.changes import AdapterChange
from keeps.models.language_model import LanguageModel
from keeps.models.weight_writer import Keys
from keeps.numerics.editing import Moment, rank_one
from keeps.registry import method
from keeps.settings import setting
from keeps.training.locate_edit import LocateAndEdit, Solve, one_by_one
from keeps.training.locate_settings import OneLayerSettings
from keeps.training.value_vectors import Value


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
class ROME(LocateAndEdit):
    """Rank-one model editing."""

    Settings = ROMESettings

    def __call__(
        self, model: LanguageModel, edits: Sequence[Edit], keep: RecordSet | None = None, *, run: Run
    ) -> AdapterChange:
        """Write each edit, leave a LoRA folder of rank one an edit in ``run.folder``, and give the weights back."""
        del keep  # C protects what the layer reads elsewhere
        name, objective = type(self).info.name, self.objective()  # type: ignore[attr-defined]
        return one_by_one(model, edits, self.settings, run, method=name, solve=solve, objective=objective)


def solve(moments: Mapping[int, Moment]) -> Solve:
    """The update of one edit: exact on the bare prompt."""

    def factors(layer: int, keys: Keys, value: Value) -> tuple[Tensor, Tensor]:
        return rank_one(value.delta, keys.mean[layer][0], moments[layer], at=keys.bare[layer][0])

    return factors
