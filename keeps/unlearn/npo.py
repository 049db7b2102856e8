"""NPO: a preference loss with the answers to be forgotten as losers and no winner (Zhang et al. 2024).

    L = -(2/beta) mean log sigma(-beta log(pi(y|x) / pi_ref(y|x)))  +  alpha * retain term      (arXiv:2404.05868)

The reference is the model before unlearning, whose log-probabilities (one number an answer) are stored once. The
gradient is that of gradient ascent times 2 pi^beta / (pi^beta + pi_ref^beta): the same at the start, and less the
more is forgotten. So the loss limits itself where gradient ascent diverges; beta to 0 gives gradient ascent back.

Use when: facts, persons or texts must be forgotten and the model must stay usable; the first method to try for
unlearning; gradient ascent destroys the model.

Needs: what is to be forgotten; a retain set helps much. Guarantees: step 0 equals the model.

log pi is summed over the tokens of an answer, as in the paper; some published code divides by the length, which
``average=yes`` does. The two need different values of beta.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.models.language_model import LanguageModel
from keeps.numerics.forgetting_losses import npo
from keeps.registry import method
from keeps.settings import setting
from keeps.training.forgetting import AnswerForgetting, whole_answers
from keeps.training.preferences import response_logprobs
from keeps.training.unlearn import Objective, RetainSettings, Unlearner, forget_examples


@dataclass(frozen=True, kw_only=True)
class NPOSettings(RetainSettings):
    """Settings of NPO."""

    beta: float = setting(0.1, "How soon the push weakens once an answer is less likely than it was", gt=0)
    average: bool = setting(False, "Divide log-probabilities by the length of the answer, as MUSE's code does")


@method(
    "npo",
    verb="unlearn",
    paper="arXiv:2404.05868",
    summary="Negative preference optimisation: gradient ascent that limits itself as the answers go.",
    card="unlearning",
    needs=("forget",),
    uses=("retain",),
)
class NPO(Unlearner):
    """Negative preference optimisation against the stored reference."""

    Settings = NPOSettings

    def objective(self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None, run: Run) -> Objective:
        """The loss of every answer against what the model gave it before."""
        del retain, run
        s, pad = self.settings, model.encoder.pad_token_id
        examples = forget_examples(model, forget, s.window)
        reference = response_logprobs(model.model, examples, pad)

        def loss(logprobs: Tensor, lengths: Tensor, numbers: Tensor) -> Tensor:
            before = reference.to(logprobs)[numbers]
            scale = lengths if s.average else torch.ones_like(lengths)
            return npo(logprobs / scale, before / scale, beta=s.beta)

        return Objective(
            whole_answers(examples),
            self.weighted(lambda module: AnswerForgetting(module, examples, loss, pad_token_id=pad)),
        )
