"""LoRA on a leash: hold the answers to what must be kept near those of the frozen base (Li and Hoiem 2016).

Learning without forgetting (arXiv:1606.09282) records what the old network says and adds to the loss on new
data the divergence from that. Here the record is taken on the keep set before training, and each step adds

    weight * mean KL( p_base(. | x) || p_now(. | x) )    over the answer tokens of a few keep examples

It asks the model to go on saying what it said, right or wrong, with all of its probabilities, where replay asks
for the right answer alone; so the keep set needs no true answers, only typical ones.

Use when: the behaviour of the model on some data must not change; answers should stay as they were, right or
wrong; a regularised baseline is wanted and memory for a second model is not there.

Needs: data to learn and data to keep. Guarantees: nothing beyond the examples on the leash.

Where this differs from the paper: the paper has no old data and reads the old outputs on the new images, through
heads of their own, softened by a temperature of 2. A language model has one head, whose answers to the new
prompts are the very thing to change; so the keep set is read instead, at temperature 1. The base is read once
and its last hidden states are kept, so there is neither a second model nor a second forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.models.changes import AdapterChange
from keeps.models.language_model import LanguageModel
from keeps.models.plain_layers import on_plain_layers
from keeps.registry import method
from keeps.settings import setting
from keeps.training.adapter import AdapterSettings, train_and_write, wrap
from keeps.training.keeping import WINDOW, leash, needs_keep


@dataclass(frozen=True, kw_only=True)
class KLSettings(AdapterSettings):
    """Settings of the leash."""

    weight: float = setting(1.0, "Weight of the mean divergence from the base on keep examples", gt=0)
    keep_batch: int = setting(16, "Keep examples read in each forward pass", ge=1)
    window: int = setting(WINDOW, "Tokens of running text that make one example", ge=8, advanced=True)


@method(
    "kl",
    verb="adapt",
    paper="arXiv:1606.09282",
    summary="LoRA with a KL leash: what the base said about the keep set, it goes on saying.",
    card="baselines",
    needs=("learn", "keep"),
    forms=("lora", "merged"),
)
class KLLoRA:
    """Low-rank adaptation held to the frozen base on the keep set."""

    Settings = KLSettings

    def __init__(self, settings: KLSettings) -> None:
        self.settings = settings

    @on_plain_layers
    def __call__(
        self, model: LanguageModel, learn: RecordSet, keep: RecordSet | None = None, *, run: Run
    ) -> AdapterChange:
        """Read the base on ``keep``, train A and B on ``learn`` with the leash, write a peft folder of rank r."""
        settings = self.settings
        keep = needs_keep(keep, "kl")
        held = leash(
            model, keep, weight=settings.weight, batch_size=settings.keep_batch, run=run, window=settings.window
        )
        wrapped = wrap(model, settings, seed=run.seed)
        data = {"learn": learn.fingerprint, "keep": keep.fingerprint}
        return train_and_write(model, wrapped, learn, settings, run, method="kl", data=data, regulariser=held)
