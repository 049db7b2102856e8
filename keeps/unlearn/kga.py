"""KGA: as far from a model that knows the texts as the old model is from one that knows texts it never saw (2023).

    NG(A, B, Z) = mean KL(A || B) on Z                                  (Wang et al. 2023, arXiv:2305.06535)

    L = |NG(A_D, A_n, D_n) - NG(A*, A_f, D_f)|  +  alpha KL(A_D || A*) on D_r

A_D is the model, A_f a copy trained on what is to be forgotten, A_n a copy trained on fresh data that A_D has never
seen. How far A_D is from A_n on that data is how far not knowing is from knowing; A* is brought to that distance from
A_f on the forget set, and training ends when the two gaps differ by no more than sigma times the first. So it does not
forget more than never having seen it would mean, and a model that was pushed too far is pulled back.

Use when: what was forgotten must look like what was never seen, neither more nor less; there is time to train two
small helpers.

Needs: what is to be forgotten, and what is to be retained. Guarantees: the loss is bounded below by 0, and training
stops at a measured distance.

The fresh data are by default the questions of the retain set with answers that belong to others, which no model knows;
give questions of your own as ``fresh`` (a file). The helpers are copies of the model with an adapter each, since the
model before its pretraining, where the published helpers start, is not at hand; they are thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from keeps.contracts import Run
from keeps.data.readers import read_records
from keeps.data.records import RecordSet
from keeps.models.language_model import LanguageModel
from keeps.registry import method
from keeps.settings import setting
from keeps.training.batches import TokenizedExample
from keeps.training.helpers import KnowledgeGap, knowledge_gap, said_by_helper
from keeps.training.mismatches import mismatched
from keeps.training.reference import Reference
from keeps.training.unlearn import Objective, RetainSettings, Unlearner, forget_examples


@dataclass(frozen=True, kw_only=True)
class KGASettings(RetainSettings):
    """Settings of KGA."""

    loss_falls: ClassVar[bool] = True

    retain_loss: str = setting(
        "kl",
        "The term on the retain set: its right answers (nll), or what the model said before (kl)",
        choices=("nll", "kl"),
    )
    sigma: float = setting(0.05, "Training ends when the gaps differ by this share of the first; 0 trains on", ge=0)
    fresh: str | None = setting(None, "File of records that the model has never seen (default: exchanged answers)")
    helper_epochs: int = setting(5, "Passes of each helper over its data", ge=1)
    helper_rate: float = setting(5e-4, "Largest learning rate of the helpers", gt=0, lt=10)


class GapStop:
    """Ends training when the gap is within sigma of its goal; an ``after_step`` hook that looks once an epoch."""

    def __init__(
        self,
        helper: Reference,
        examples: list[TokenizedExample],
        goal: float,
        sigma: float,
        every: int,
        pad: int,
        run: Run,
    ) -> None:
        self.helper, self.examples, self.goal, self.sigma = helper, examples, goal, sigma
        self.every, self.pad, self.run = every, pad, run

    def __call__(self, module: nn.Module, step: int, optimiser: Any) -> bool:
        """Whether it is enough."""
        del optimiser
        if step % self.every:
            return False
        gap = knowledge_gap(module, self.helper, self.examples, self.pad)
        self.run.log(step, gap=gap)
        self.run.measures["gap"] = gap
        return abs(self.goal - gap) <= self.sigma * self.goal


@method(
    "kga",
    verb="unlearn",
    paper="arXiv:2305.06535",
    summary="Bring the model as far from a copy that knows the forget set as not knowing is from knowing, and stop.",
    card="unlearning",
    needs=("forget", "retain"),
)
class KGA(Unlearner):
    """Knowledge gap alignment."""

    Settings = KGASettings
    holds = "needs"

    def objective(self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None, run: Run) -> Objective:
        """Both helpers, the gap that is aimed at, and the distance to it as the loss."""
        s, pad = self.settings, model.encoder.pad_token_id
        assert retain is not None  # for it holds what it needs
        fresh = mismatched(retain, retain, count=1, seed=run.seed) if s.fresh is None else read_records(s.fresh)
        unseen, examples = forget_examples(model, fresh, s.window), forget_examples(model, forget, s.window)
        options: dict[str, Any] = {"epochs": s.helper_epochs, "learning_rate": s.helper_rate}
        knows_fresh = said_by_helper(model, unseen, s, run, name="fresh", **options)
        goal = knowledge_gap(model.model, knows_fresh, unseen, pad)
        helper = said_by_helper(model, examples, s, run, name="forget", **options)
        run.measures |= {"gap_goal": goal, "gap_before": knowledge_gap(model.model, helper, examples, pad)}
        at_gap = GapStop(helper, examples, goal, s.sigma, s.steps_per_epoch(len(examples)), pad, run)
        loss = self.weighted(lambda module: KnowledgeGap(module, helper, goal))
        return Objective(examples, loss, after_step=at_gap)
