"""SatImp: gradient ascent weighted by saturation and importance of each token (Yang et al. 2025).

    L = mean over the answer tokens of p^beta1 (1 - p)^beta2 log p  +  alpha * retain term           (arXiv:2505.11953)

p^beta1 leaves out the tokens that are forgotten already (saturation), (1 - p)^beta2 those that are certain whatever
the fact is, such as the rest of a word (importance). Neither has a gradient.

Use when: answers are sentences of which only some words carry the fact; the function words of an answer must not be
unlearned along with it.

Needs: what is to be forgotten; a retain set may be given. Guarantees: a bounded loss.
"""

from __future__ import annotations

from dataclasses import dataclass

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.models.language_model import LanguageModel
from keeps.numerics.forgetting_losses import saturation_importance
from keeps.registry import method
from keeps.settings import setting
from keeps.training.forgetting import TokenForgetting
from keeps.training.unlearn import Objective, RetainSettings, Unlearner, forget_examples


@dataclass(frozen=True, kw_only=True)
class SatImpSettings(RetainSettings):
    """Settings of SatImp. The published code weighs the forget set with 0.1."""

    saturation: float = setting(5.0, "beta1, the power of p: how much a token that is forgotten is spared", ge=0)
    importance: float = setting(1.0, "beta2, the power of 1 - p: how much a token that is certain is spared", ge=0)
    forget_weight: float = setting(0.1, "Weight gamma of the loss on the forget set", gt=0)


@method(
    "satimp",
    verb="unlearn",
    paper="arXiv:2505.11953",
    summary="Gradient ascent on the tokens that are neither forgotten already nor certain anyway.",
    card="unlearning",
    needs=("forget",),
    uses=("retain",),
)
class SatImp(Unlearner):
    """Gradient ascent weighted by saturation and importance."""

    Settings = SatImpSettings

    def objective(self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None, run: Run) -> Objective:
        """The weighted log p of every answer token."""
        del retain, run
        powers = {"beta1": self.settings.saturation, "beta2": self.settings.importance}
        examples = forget_examples(model, forget, self.settings.window)
        return Objective(
            examples,
            self.weighted(
                lambda module: TokenForgetting(module, lambda z, y, _: saturation_importance(z, y, **powers))
            ),
        )
