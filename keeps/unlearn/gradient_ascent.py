"""Gradient ascent: raise the loss on what is to be forgotten, and on nothing else (Jang et al. 2023).

    L = mean over the answer tokens of log p(y_t | y_<t, x)          (arXiv:2210.01504)

It is the oldest way and the baseline. Nothing bounds L from below: left alone it diverges within a few epochs, and
takes all other abilities along. Three guards are here: the norm of the gradient is clipped; a token whose loss has
reached ``max_loss`` is not pushed any further (``max_loss=none`` is the published loss); and ``stop=extraction`` ends
as soon as the forget set can be extracted and is memorised no more than text that was never seen, which is the
stopping rule of the paper.

Use when: a few texts must go at once and there is nothing to retain; the simplest baseline of unlearning is wanted;
a privacy request names single sequences.

Needs: what is to be forgotten. Guarantees: nothing about the rest; watch the knowledge diff.

The mean is taken over the answer tokens of a step, prompts and padding not counted, so that accumulation changes
nothing.
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
from keeps.training.unlearn import Objective, Unlearner, UnlearnSettings, forget_examples


@dataclass(frozen=True, kw_only=True)
class GradientAscentSettings(UnlearnSettings):
    """Settings of gradient ascent."""

    max_loss: float | None = setting(
        20.0, "Loss beyond which a token is not pushed any further; none is the published loss", gt=0, unit="nats"
    )


@method(
    "gradient_ascent",
    verb="unlearn",
    paper="arXiv:2210.01504",
    summary="Raise the loss on the forget set: simple, fast, and hard on everything else.",
    card="unlearning",
    needs=("forget",),
)
class GradientAscent(Unlearner):
    """Gradient ascent on the forget set alone."""

    Settings = GradientAscentSettings
    holds = "none"

    def objective(self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None, run: Run) -> Objective:
        """log p of every answer token."""
        del retain, run
        loss = partial(gradient_ascent, max_loss=self.settings.max_loss)
        examples = forget_examples(model, forget, self.settings.window)
        return Objective(examples, lambda module: TokenForgetting(module, lambda z, y, _: loss(z, y)))
