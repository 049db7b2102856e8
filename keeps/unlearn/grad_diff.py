"""Gradient difference: up on the forget set, down on the retain set (Liu et al. 2022, arXiv:2203.12817).

    L = gamma log p on the forget set  +  alpha (-log p) on the retain set,     a mean over answer tokens each

The retain term is read on a fresh draw of the retain set in every step. It protects what it sees and what is near to
that; the forget term is still that of gradient ascent and has no floor, so its bound ``max_loss`` is kept.

Use when: examples of what must stay are at hand and forgetting may be thorough; a baseline with a retain set is
wanted.

Needs: what is to be forgotten, and what is to be retained. Guarantees: nothing beyond the retain set.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.models.language_model import LanguageModel
from keeps.numerics.forgetting_losses import gradient_ascent
from keeps.registry import method
from keeps.settings import setting
from keeps.training.forgetting import TokenForgetting
from keeps.training.unlearn import Objective, RetainSettings, Unlearner, forget_examples


@dataclass(frozen=True, kw_only=True)
class GradDiffSettings(RetainSettings):
    """Settings of gradient difference."""

    max_loss: float | None = setting(
        20.0, "Loss beyond which a token is not pushed any further; none is the published loss", gt=0, unit="nats"
    )


@method(
    "grad_diff",
    verb="unlearn",
    paper="arXiv:2203.12817",
    summary="Raise the loss on the forget set and lower it on the retain set.",
    card="unlearning",
    needs=("forget", "retain"),
)
class GradDiff(Unlearner):
    """Gradient ascent on the forget set, descent on the retain set."""

    Settings = GradDiffSettings
    holds = "needs"

    def objective(self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None, run: Run) -> Objective:
        """gamma log p of every answer token; the engine adds the retain term."""
        del retain, run
        loss = partial(gradient_ascent, max_loss=self.settings.max_loss)
        examples = forget_examples(model, forget, self.settings.window)
        return Objective(examples, self.weighted(lambda module: TokenForgetting(module, lambda z, y, _: loss(z, y))))
