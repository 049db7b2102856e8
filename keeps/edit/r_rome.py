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

from collections.abc import Mapping, Sequence

from torch import Tensor

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.data.records import RecordSet
from keeps.edit.rome import ROMESettings
from keeps.models.changes import AdapterChange
from keeps.models.language_model import LanguageModel
from keeps.models.weight_writer import Keys
from keeps.numerics.editing import Moment, rank_one
from keeps.registry import method
from keeps.training.locate_edit import LocateAndEdit, Solve, one_by_one
from keeps.training.value_vectors import Value


@method(
    "r_rome",
    verb="edit",
    card="knowedit",
    paper="arXiv:2403.07175",
    summary="ROME with one key for direction and size, so that no single edit disables the model.",
    needs=("edits",),
    forms=("lora", "merged"),
)
class RROME(LocateAndEdit):
    """ROME rebuilt."""

    Settings = ROMESettings

    def __call__(
        self, model: LanguageModel, edits: Sequence[Edit], keep: RecordSet | None = None, *, run: Run
    ) -> AdapterChange:
        """Write each edit, leave a LoRA folder of rank one an edit in ``run.folder``, and give the weights back."""
        del keep  # C protects what the layer reads elsewhere

        def solve(moments: Mapping[int, Moment]) -> Solve:
            return lambda layer, keys, value: factors(model, layer, keys, value, moments[layer])

        options = {"method": "r_rome", "solve": solve, "objective": self.objective()}
        return one_by_one(model, edits, self.settings, run, **options)


def factors(model: LanguageModel, layer: int, keys: Keys, value: Value, moment: Moment) -> tuple[Tensor, Tensor]:
    """The update of one edit: exact on the mean key. W (k_0 - k*) is what v* = W k_0 + delta lacks of W k*."""
    from keeps.models.locate import mlp_outputs

    bare, mean = keys.bare[layer][0], keys.mean[layer][0]
    w = mlp_outputs(model.model)[layer].matrix.double()
    return rank_one(value.delta.double() + w @ (bare - mean), mean, moment)
