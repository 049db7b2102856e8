"""Ext-Sub: subtract only what the unwanted adapter learned beyond the wanted one (Hu et al. 2024, arXiv:2308.08090).

An expert v+ is trained on the retain set and an anti-expert v- on the forget set. Both learned how to answer; only
one learned what must go. Row by row of each weight, with e+ = v+/||v+|| and e- = v-/||v-||,

    c = (e+ + e-) / ||e+ + e-||,   d = v- - <v-, c> c,   theta = theta_0 + v+ - lambda d

so that the direction which both share stays, and what is subtracted is the anti-expert's own. d is a sum of scaled
rows of both, so the result is exactly a LoRA of twice the rank.

Use when: plain negation takes fluency or format along with what must go; there are good and bad examples of the same
kind of answer, such as polite and toxic ones.

Needs: what is to be forgotten, and what is to be retained. Guarantees: the shared direction is kept.

It trains adapters; ``parameters=full`` is refused. Where one of the two learned nothing in a row, nothing is shared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.errors import SettingsError
from keeps.models.adapters import ADAPTER, Factors, lora_layers
from keeps.models.changes import StoredChange
from keeps.models.language_model import LanguageModel
from keeps.models.plain_layers import on_plain_layers
from keeps.numerics.task_vectors import extracted_before_subtracted
from keeps.registry import method
from keeps.settings import setting
from keeps.training.adapter import train_and_write, wrap
from keeps.training.examples import tokenise
from keeps.training.helpers import learned
from keeps.training.unlearn import Unlearner, UnlearnSettings, check_sets, forget_examples


@dataclass(frozen=True, kw_only=True)
class ExtSubSettings(UnlearnSettings):
    """Settings of Ext-Sub. Epochs and learning rate are those of expert and anti-expert."""

    loss_falls: ClassVar[bool] = True

    strength: float = setting(1.0, "lambda: how much of the anti-expert's own is subtracted", ge=0, le=10)

    def check(self) -> None:
        """Refuse settings that would do nothing, and whole weights."""
        super().check()
        self.refuse_idle(("stop",), True, "what is trained here learns both sets")
        if self.parameters == "full":
            what = "parameters is full, and Ext-Sub subtracts adapters"
            raise SettingsError(what, where="ext_sub", mend="leave parameters out, or take negation")


@method(
    "ext_sub",
    verb="unlearn",
    paper="arXiv:2308.08090",
    summary="Subtract what an adapter of the unwanted learned beyond an adapter of the wanted.",
    card="unlearning",
    needs=("forget", "retain"),
)
class ExtSub(Unlearner):
    """Extraction before subtraction."""

    Settings = ExtSubSettings

    @staticmethod
    def forms(settings: UnlearnSettings) -> tuple[str, ...]:
        """An adapter of twice the rank."""
        del settings
        return ("lora", "merged")

    def objective(self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None, run: Run) -> Any:
        """There is none: both adapters learn."""
        raise TypeError("ext_sub minimises the loss on both sets, and subtracts")

    @on_plain_layers
    def __call__(
        self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None = None, *, run: Run
    ) -> StoredChange:
        """Train expert and anti-expert, and write the expert without what is the anti-expert's own."""
        s = self.settings
        s.check_model(model)
        check_sets(forget, retain)
        forget_examples(model, forget, s.window)
        if retain is None or not len(retain):
            mend = "give --retain, or take negation"
            raise SettingsError("there is nothing to retain", where="ext_sub", mend=mend)
        bad, good = self.learned(model, forget, "anti_expert", run), self.learned(model, retain, "expert", run)
        both = {name: extracted_before_subtracted(good[name], bad[name], s.strength) for name in good}
        wide = replace(
            s,
            rank=2 * s.rank,
            alpha=None,
            dropout=0.0,
            rank_stabilised=False,
            rank_pattern={name: 2 * rank for name, rank in s.rank_pattern.items()},
        )
        data = {"forget": forget.fingerprint, "retain": retain.fingerprint}
        return train_and_write(
            model,
            wrap(model, wide, seed=run.seed),
            forget,
            s,
            run,
            method="ext_sub",
            data=data,
            training=lambda module: _set(module, both),
        )

    def learned(self, model: LanguageModel, records: RecordSet, name: str, run: Run) -> Factors:
        """A and B of an adapter that learned ``records``, its scaling in B; ``model`` is as before."""
        examples = tokenise(model, records, window=self.settings.window)
        with learned(model, examples, self.settings, run, name) as wrapped:
            return {layer: (a, wrapped.scaling[layer] * b) for layer, (a, b) in wrapped.factors().items()}


def _set(module: Any, factors: Factors) -> None:
    with torch.no_grad():
        for name, layer in lora_layers(module).items():
            a, b = factors[name]
            layer.lora_A[ADAPTER].weight.copy_(a)
            layer.lora_B[ADAPTER].weight.copy_(b)
