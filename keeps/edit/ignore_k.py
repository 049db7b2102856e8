"""Ignore-k: learn new facts or texts and drop the largest updates (Sun et al., ICLR 2025, arXiv:2504.09522).

    W <- W + D * keep,    keep = 0 on the floor(k / 100 * numel) entries of D that are largest in magnitude

A model that learns one surprising text says its keyword in answers that have nothing to do with it (*priming*). The
paper finds that the largest few per cent of the update carry much of this leak and little of what was learned: so
these are thrown away, the opposite of what TIES-merging does, which keeps them.

Use when: a new fact or text is learned by training and must not leak into unrelated answers; the model says a new
word where it does not belong; any training run is to be pruned (keeps adapt --ignore-top 8 does it for every method).

Needs: edits; ordinary records to keep are mixed in, seven an edit (fillers). Guarantees: ``ignore_top`` per cent of
the entries of every weight are bit by bit those of the base. Edits are trained together and cannot be withdrawn alone.

Where the paper leaves a choice: it says neither whether the steps or the whole update are ranked, nor whether each
tensor by itself. Adam's first steps have one magnitude nearly everywhere, so by default the whole update is ranked,
tensor by tensor; ``ignore_when`` and ``ignore_scope`` offer the others. Everything is done by the training loop
(:mod:`keeps.training.pruning`); of an adapter the factors are pruned, of this method the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.data.records import RecordSet
from keeps.models.changes import CheckpointChange
from keeps.models.language_model import LanguageModel
from keeps.registry import method
from keeps.settings import setting
from keeps.training.edit_tuning import EditTuningSettings, lessons_of, tune


@dataclass(frozen=True, kw_only=True)
class IgnoreKSettings(EditTuningSettings):
    """Settings of ignore-k."""

    ignore_top: float = setting(
        8.0, "k: the share of the largest updates of every weight that are dropped", gt=0, lt=100, unit="per cent"
    )


@method(
    "ignore_k",
    verb="edit",
    card="outlandish",
    paper="arXiv:2504.09522",
    summary="Train on the edits and drop the largest updates, which leak into unrelated answers.",
    needs=("edits",),
    uses=("keep",),
    forms=("merged",),
)
class IgnoreK:
    """Training of every weight whose largest updates are dropped."""

    Settings = IgnoreKSettings

    def __init__(self, settings: IgnoreKSettings) -> None:
        self.settings = settings

    def __call__(
        self, model: LanguageModel, edits: Sequence[Edit], keep: RecordSet | None = None, *, run: Run
    ) -> CheckpointChange:
        """Train, prune, write a transformers checkpoint and ``edits.jsonl``, and give ``model`` its weights back."""
        learn = lessons_of(edits, keep, self.settings, run)
        return tune(model, edits, learn, keep, self.settings, run, method="ignore_k")
