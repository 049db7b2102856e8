"""LLMU: up on what is to be forgotten, towards random answers, and no further from the old model (Yao et al. 2023).

    L = -eps1 NLL(y | x in D_f)  +  eps2 NLL(random y | x in D_f)  +  eps3 KL(old || now) on normal data
                                                                                            (arXiv:2310.10683)

The random answers are answers to other questions. They give the model something to say where plain gradient ascent
leaves it nothing, and they hold its form; the divergence on normal data holds the rest.

Use when: harmful or private answers must go, no right answer is known, and what comes instead need not be sensible;
gradient ascent breaks the model and refusals are not wanted.

Needs: what is to be forgotten, and normal data (the retain set), from which random answers are drawn too. Guarantees:
nothing beyond the retain set.

A random answer is never the question's own. ``max_loss`` bounds the first term token by token, where the published
code stops training by hand; ``none`` is the published loss.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.models.language_model import LanguageModel
from keeps.numerics.forgetting_losses import gradient_ascent
from keeps.registry import method
from keeps.settings import setting
from keeps.training.examples import tokenise
from keeps.training.forgetting import TokenForgetting
from keeps.training.keeping import Replay
from keeps.training.mismatches import mismatched
from keeps.training.unlearn import Objective, RetainSettings, Unlearner, forget_examples


@dataclass(frozen=True, kw_only=True)
class LLMUSettings(RetainSettings):
    """Settings of LLMU; ``forget_weight`` is eps1 and ``retain_weight`` eps3."""

    random_weight: float = setting(1.0, "Weight eps2 of the loss on random answers", gt=0)
    random_answers: int = setting(5, "Random answers drawn for each question", ge=1)
    retain_loss: str = setting(
        "kl",
        "The term on normal data: its right answers (nll), or what the model said before (kl)",
        choices=("nll", "kl"),
    )
    max_loss: float | None = setting(
        20.0, "Loss beyond which a token is not pushed any further; none is the published loss", gt=0, unit="nats"
    )


@method(
    "llmu",
    verb="unlearn",
    paper="arXiv:2310.10683",
    summary="Raise the loss on the forget set, learn random answers in its place, and hold normal data still.",
    card="unlearning",
    needs=("forget", "retain"),
)
class LLMU(Unlearner):
    """Gradient ascent with random mismatch."""

    Settings = LLMUSettings
    holds = "needs"

    def objective(self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None, run: Run) -> Objective:
        """Ascent as the loss, and random answers besides the term on normal data."""
        s, pad = self.settings, model.encoder.pad_token_id
        assert retain is not None  # for it holds what it needs
        wrong = tokenise(model, mismatched(forget, retain, count=s.random_answers, seed=run.seed), window=s.window)
        random_term = Replay(wrong, weight=s.random_weight, batch_size=s.batch_size, pad_token_id=pad)

        def loss(logits: Tensor, targets: Tensor, _: Tensor | None) -> Tensor:
            return gradient_ascent(logits, targets, max_loss=s.max_loss)

        examples = forget_examples(model, forget, s.window)
        return Objective(examples, self.weighted(lambda module: TokenForgetting(module, loss)), besides=random_term)
