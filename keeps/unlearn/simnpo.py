"""SimNPO: NPO without a reference, with the mean log-probability of a token (Fan et al. 2024).

    L = -(2/beta) mean log sigma(beta (-log pi(y|x) / |y| - delta))  +  alpha * retain term     (arXiv:2410.07163)

A reference says that what was likely must go further than what was not; long answers then dominate, and answers that
the model hardly knew are pushed all the same. Without it, and per token, the push on an answer depends on how likely
its tokens are now.

Use when: answers differ much in length; NPO forgets the long ones and leaves the short ones; there is no trusted
reference model.

Needs: what is to be forgotten; a retain set helps much. Guarantees: nothing.

beta is that of a mean and cannot be compared with NPO's. With the published gamma of 0.125 and beta of 4.5 others did
not always find the published figures; both are settings.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.models.language_model import LanguageModel
from keeps.numerics.forgetting_losses import simnpo
from keeps.registry import method
from keeps.settings import setting
from keeps.training.forgetting import AnswerForgetting, whole_answers
from keeps.training.unlearn import Objective, RetainSettings, Unlearner, forget_examples


@dataclass(frozen=True, kw_only=True)
class SimNPOSettings(RetainSettings):
    """Settings of SimNPO."""

    beta: float = setting(4.5, "How soon the push on an answer weakens as its tokens become unlikely", gt=0)
    delta: float = setting(0.0, "Loss of a token up to which the push is at its strongest", ge=0, unit="nats")
    forget_weight: float = setting(0.125, "Weight gamma of the loss on the forget set", gt=0)


@method(
    "simnpo",
    verb="unlearn",
    paper="arXiv:2410.07163",
    summary="NPO without a reference model, per token instead of per answer.",
    card="unlearning",
    needs=("forget",),
    uses=("retain",),
)
class SimNPO(Unlearner):
    """Simple negative preference optimisation."""

    Settings = SimNPOSettings

    def objective(self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None, run: Run) -> Objective:
        """The loss of every answer by the mean log-probability of its tokens."""
        del retain, run
        s, pad = self.settings, model.encoder.pad_token_id
        examples = forget_examples(model, forget, s.window)

        def loss(logprobs: Tensor, lengths: Tensor, numbers: Tensor) -> Tensor:
            del numbers
            return simnpo(logprobs, lengths, beta=s.beta, delta=s.delta)

        return Objective(
            whole_answers(examples),
            self.weighted(lambda module: AnswerForgetting(module, examples, loss, pad_token_id=pad)),
        )
