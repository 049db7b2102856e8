"""DPO with refusals: prefer "I don't know" to the answer that is to be forgotten (Maini et al. 2024).

    L = -(2/beta) mean log sigma(beta (log-ratio(refusal) - log-ratio(answer)))  +  alpha * retain term

The log-ratios are those of the model to itself before unlearning, summed over the tokens (Rafailov et al. 2023,
arXiv:2305.18290; as a method of unlearning arXiv:2401.06121). Where ``idk`` only raises the refusal, this lowers the
answer too; where NPO only lowers the answer, this says what comes instead.

Use when: an answer must become unlikely and a refusal is wanted in its place; the data are questions.

Needs: questions to be forgotten; a retain set, without which it refuses everything. Guarantees: step 0 equals the
model.

The factor 2/beta is that of NPO, so that gamma means the same in both.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.models.language_model import LanguageModel
from keeps.registry import method
from keeps.settings import setting
from keeps.training.forgetting import Weighted
from keeps.training.preferences import PreferenceLoss, response_logprobs
from keeps.training.refusals import REFUSALS, refusal_pairs
from keeps.training.unlearn import Objective, RetainSettings, Unlearner


@dataclass(frozen=True, kw_only=True)
class DPOSettings(RetainSettings):
    """Settings of DPO with refusals."""

    beta: float = setting(0.1, "How far the model may leave what it was", gt=0)
    refusals: tuple[str, ...] = setting(REFUSALS, "What is said instead, sentences separated by commas")


@method(
    "dpo",
    verb="unlearn",
    paper="arXiv:2401.06121",
    summary="Prefer a refusal to the answer that is to be forgotten.",
    card="unlearning",
    needs=("forget",),
    uses=("retain",),
)
class DPO(Unlearner):
    """Direct preference optimisation with the refusal as winner."""

    Settings = DPOSettings

    def objective(self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None, run: Run) -> Objective:
        """The preference loss of every pair against the model as it is now."""
        del retain, run
        s, pad = self.settings, model.encoder.pad_token_id
        pairs = refusal_pairs(model, forget, s.refusals, s.window)
        both = response_logprobs(model.model, [each for pair in pairs for each in (pair.chosen, pair.rejected)], pad)

        def loss(module: nn.Module) -> nn.Module:
            inner = PreferenceLoss(module, pairs, both.view(-1, 2), beta=s.beta, pad_token_id=pad)
            return Weighted(inner, 2 / s.beta)

        return Objective([pair.example(number) for number, pair in enumerate(pairs)], self.weighted(loss))
