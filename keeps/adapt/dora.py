"""DoRA: train the direction of each row of a weight by LoRA and its length by one number (arXiv:2402.09353).

    W' = m * (W + s B A) / ||W + s B A||   row by row,   m = ||W|| at the start

The norm in the denominator counts as a constant in the backward pass, as in the paper. Size and direction
of a change can then differ, as they do in full fine-tuning, at the cost of forming W + s B A in every step.

Use when: LoRA of a small rank falls short of full fine-tuning; more accuracy for the same rank is worth
slower steps.

Needs: facts, examples or texts to learn. Guarantees: step 0 equals the base to rounding. Nothing protects what
the model knew.

Training is peft's, and so is the folder that is written (``use_dora``): plain peft loads it. The change of a weight
is of full rank, because every row is rescaled, and no plain LoRA of any rank stands for it; form
``merged`` is exact.
"""

from __future__ import annotations

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.models.changes import AdapterChange
from keeps.models.language_model import LanguageModel
from keeps.models.plain_layers import on_plain_layers
from keeps.models.targets import check_dense, find_targets
from keeps.registry import method
from keeps.training.adapter import AdapterSettings, train_and_write, wrap


@method(
    "dora",
    verb="adapt",
    paper="arXiv:2402.09353",
    summary="LoRA for the direction of each weight row, one trained number for its length: closer to full training.",
    card="corda",
    needs=("learn",),
    forms=("lora", "merged"),
)
class DoRA:
    """Weight-decomposed low-rank adaptation through peft."""

    Settings = AdapterSettings

    def __init__(self, settings: AdapterSettings) -> None:
        self.settings = settings

    @on_plain_layers
    def __call__(
        self, model: LanguageModel, learn: RecordSet, keep: RecordSet | None = None, *, run: Run
    ) -> AdapterChange:
        """Train A, B and the magnitudes on ``learn`` and write peft's DoRA folder."""
        del keep  # DoRA has no use for it
        check_dense(find_targets(model.model, self.settings.targets))
        wrapped = wrap(model, self.settings, seed=run.seed, use_dora=True)
        data = {"learn": learn.fingerprint}
        return train_and_write(model, wrapped, learn, self.settings, run, method="dora", data=data)
