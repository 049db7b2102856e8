"""CE-U: learn one's own next-token distribution without the true token (Yang 2025, arXiv:2503.01224).

    L = mean over the answer tokens of H(softmax(z with z_y = -inf), p)  +  alpha * retain term

The target is the model's own, without a gradient, so there is neither a reference nor anything that diverges: the
gradient vanishes where the true token has no probability left. The first token of an answer is left out, since with
it whole answers of the kind would be unlearned and not this one.

Use when: no reference model fits into memory; a bounded loss with a single setting is wanted.

Needs: what is to be forgotten; a retain set may be given. Guarantees: a bounded gradient.

Of an answer that has no more tokens than are skipped, the last one is unlearned all the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.models.language_model import LanguageModel
from keeps.numerics.forgetting_losses import cross_entropy_unlearning
from keeps.registry import method
from keeps.settings import setting
from keeps.training.forgetting import TokenForgetting
from keeps.training.unlearn import Objective, RetainSettings, Unlearner, forget_examples


@dataclass(frozen=True, kw_only=True)
class CEUSettings(RetainSettings):
    """Settings of CE-U."""

    skip: int = setting(1, "First tokens of an answer that are not unlearned", ge=0)


@method(
    "ce_u",
    verb="unlearn",
    paper="arXiv:2503.01224",
    summary="Cross-entropy to the model's own words without the true token: no reference, no divergence.",
    card="unlearning",
    needs=("forget",),
    uses=("retain",),
)
class CEU(Unlearner):
    """Cross-entropy unlearning."""

    Settings = CEUSettings

    def objective(self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None, run: Run) -> Objective:
        """Cross-entropy to the model itself, from the second answer token on."""
        del retain, run
        examples = [
            replace(each, answer_start=each.answer_start + min(self.settings.skip, each.answer_tokens - 1))
            for each in forget_examples(model, forget, self.settings.window)
        ]
        return Objective(
            examples,
            self.weighted(lambda module: TokenForgetting(module, lambda z, y, _: cross_entropy_unlearning(z, y))),
        )
