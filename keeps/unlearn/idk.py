"""IdK: teach the model to say that it does not know (Maini et al. 2024, arXiv:2401.06121).

    L = gamma (-log p(refusal | x)) on the questions of the forget set  +  alpha * retain term

Ordinary fine-tuning on the questions to be forgotten, with a refusal as the answer of each. It is stable and what
comes out is a sentence; but nothing pushes the answer itself down, so it may be found again by other wordings, by
a beginning of it, or by a few steps of training: look at ``--verify``.

Use when: the model should politely decline; users must be told that an answer is withheld; fluent answers matter
more than that nothing can be extracted.

Needs: questions to be forgotten (running text asks nothing); a retain set, without which it refuses everything.
Guarantees: nothing about what can still be extracted.

Which refusal belongs to a question depends on the id of its record alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.models.language_model import LanguageModel
from keeps.registry import method
from keeps.settings import setting
from keeps.training.examples import tokenise
from keeps.training.losses import PackedLoss
from keeps.training.refusals import REFUSALS, refusing
from keeps.training.unlearn import Objective, RetainSettings, Unlearner


@dataclass(frozen=True, kw_only=True)
class IdKSettings(RetainSettings):
    """Settings of IdK."""

    loss_falls: ClassVar[bool] = True

    refusals: tuple[str, ...] = setting(REFUSALS, "What is said instead, sentences separated by commas")


@method(
    "idk",
    verb="unlearn",
    paper="arXiv:2401.06121",
    summary="Fine-tune on refusals: the model says that it does not know.",
    card="unlearning",
    needs=("forget",),
    uses=("retain",),
)
class IdK(Unlearner):
    """Supervised fine-tuning on refusals."""

    Settings = IdKSettings

    def objective(self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None, run: Run) -> Objective:
        """Cross-entropy on the refusals."""
        del retain, run
        records = refusing(forget, self.settings.refusals)
        return Objective(tokenise(model, records, window=self.settings.window), self.weighted(PackedLoss))
