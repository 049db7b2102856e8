"""UNDIAL: learn what one said oneself, with the logit of the token to be forgotten lowered (Dong et al. 2024).

    L = mean over the answer tokens of H(softmax(z_old - beta e_y), p_now)  +  alpha * retain term   (arXiv:2402.10052)

Where gradient ascent only says what must not come, this says what should come instead: everything else that the old
model held possible there. The target does not move, so training ends by itself in a place that is still a language
model, and it may go on for long.

Use when: training has to be stable over many epochs; what is said instead of the forgotten should stay fluent; there
is no good moment to stop.

Needs: what is to be forgotten; a retain set may be given. Guarantees: a loss that is bounded below.

What the old model said is read once. The published code indexes with the labels of masked positions too and averages
over them; here only answer tokens count.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.models.language_model import LanguageModel
from keeps.numerics.forgetting_losses import undial
from keeps.registry import method
from keeps.settings import setting
from keeps.training.forgetting import TokenForgetting
from keeps.training.unlearn import Objective, RetainSettings, Unlearner, forget_examples, reference_of


@dataclass(frozen=True, kw_only=True)
class UNDIALSettings(RetainSettings):
    """Settings of UNDIAL."""

    beta: float = setting(10.0, "By how much the true token's logit is lowered", gt=0)


@method(
    "undial",
    verb="unlearn",
    paper="arXiv:2402.10052",
    summary="Distil the model from itself with the forgotten tokens' logits lowered: stable, fluent.",
    card="unlearning",
    needs=("forget",),
    uses=("retain",),
)
class UNDIAL(Unlearner):
    """Self-distillation on adjusted logits."""

    Settings = UNDIALSettings

    def objective(self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None, run: Run) -> Objective:
        """Cross-entropy to the adjusted old model."""
        del retain
        s = self.settings
        examples = forget_examples(model, forget, s.window)
        reference = reference_of(model, examples, s, run)

        def loss(logits: Tensor, targets: Tensor, teacher: Tensor | None) -> Tensor:
            assert teacher is not None
            return undial(logits, targets, teacher, beta=s.beta)

        return Objective(examples, self.weighted(lambda module: TokenForgetting(module, loss, reference=reference)))
