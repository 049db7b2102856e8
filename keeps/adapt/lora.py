"""LoRA: train a low-rank difference beside every weight (Hu et al. 2021, arXiv:2106.09685).

    W x + s B (A x),   s = alpha / r,   B = 0 and A Kaiming-uniform at the start

The base stays as it is and the adapter is small; what the new data overwrites is left to chance.

Use when: a small adapter with few trained parameters and little memory is enough; a common baseline is
wanted.

Needs: facts, examples or texts to learn. Guarantees: step 0 equals the base exactly.
"""

from __future__ import annotations

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.models.changes import AdapterChange
from keeps.models.language_model import LanguageModel
from keeps.models.plain_layers import on_plain_layers
from keeps.registry import method
from keeps.training.adapter import AdapterSettings, train_and_write, wrap


@method(
    "lora",
    verb="adapt",
    paper="arXiv:2106.09685",
    summary="Train a low-rank difference beside every weight: small and common, keeps by chance.",
    card="corda",
    needs=("learn",),
    forms=("lora", "merged"),
)
class LoRA:
    """Plain low-rank adaptation through peft."""

    Settings = AdapterSettings

    def __init__(self, settings: AdapterSettings) -> None:
        self.settings = settings

    @on_plain_layers
    def __call__(
        self, model: LanguageModel, learn: RecordSet, keep: RecordSet | None = None, *, run: Run
    ) -> AdapterChange:
        """Train A and B on ``learn`` and write a peft folder of rank r."""
        del keep  # plain LoRA has no use for it
        wrapped = wrap(model, self.settings, seed=run.seed)
        data = {"learn": learn.fingerprint}
        return train_and_write(model, wrapped, learn, self.settings, run, method="lora", data=data)
