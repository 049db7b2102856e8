"""WGA: gradient ascent in which a token counts as much as it is still known (Wang et al. 2025).

    L = mean over the answer tokens of p^beta log p  +  alpha * retain term,    p without a gradient  (arXiv:2502.19301)

The divergence of gradient ascent comes from tokens that are forgotten already, whose gradient is the largest. The
weight takes it away from them. beta = 0 is gradient ascent.

Use when: gradient ascent overshoots on tokens that are forgotten already; a bounded loss without a reference model is
wanted.

Needs: what is to be forgotten; a retain set may be given. Guarantees: a loss of at least -1 / (e beta) a token.
"""

from __future__ import annotations

from dataclasses import dataclass

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.models.language_model import LanguageModel
from keeps.numerics.forgetting_losses import weighted_ascent
from keeps.registry import method
from keeps.settings import setting
from keeps.training.forgetting import TokenForgetting
from keeps.training.unlearn import Objective, RetainSettings, Unlearner, forget_examples


@dataclass(frozen=True, kw_only=True)
class WGASettings(RetainSettings):
    """Settings of WGA."""

    beta: float = setting(1.0, "Power of the token's probability in its weight; 0 is gradient ascent", ge=0)


@method(
    "wga",
    verb="unlearn",
    paper="arXiv:2502.19301",
    summary="Gradient ascent weighted by what is still known, token by token.",
    card="unlearning",
    needs=("forget",),
    uses=("retain",),
)
class WGA(Unlearner):
    """Weighted gradient ascent."""

    Settings = WGASettings

    def objective(self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None, run: Run) -> Objective:
        """The weighted log p of every answer token."""
        del retain, run
        beta = self.settings.beta
        examples = forget_examples(model, forget, self.settings.window)
        return Objective(
            examples,
            self.weighted(lambda module: TokenForgetting(module, lambda z, y, _: weighted_ascent(z, y, beta=beta))),
        )
