"""PDU: forget as far as a bound on the retain set allows, with a multiplier that finds the balance (2025).

    minimise E (max_v z_v - mean_v z_v)^2 on D_f   subject to   L_r <= eps        (Entesari et al., arXiv:2506.05314)

    each step:  theta down L_f + lambda (L_r - eps),    then lambda <- max(0, lambda + eta (L_r - eps))

The loss flattens the logits of what is to be forgotten, towards every token being equally likely; it is 0 there and
needs no softmax, so that its gradient does not vanish on the way. L_r is the loss on right answers of the retain set.
While it is above the bound the multiplier grows, until the retain set counts more than the forget set; below it the
multiplier falls. So what is chosen is how much may be lost, not a weight that stands for it.

Use when: the loss on other data must not rise above a bound that you can name; weights between forgetting and
retaining would have to be searched for.

Needs: what is to be forgotten, and what is to be retained, with right answers. Guarantees: a bounded loss on the
forget set, from step 0 to 0; on the retain set a bound that the multiplier drives to, not one that every step keeps.

Without ``bound`` eps is (1 + ``tolerance``) times the retain loss of the model before unlearning. The multiplier stays
at ``multiplier`` for ``dual_warmup`` epochs. It is logged as a curve, from which a continued run reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.models.language_model import LanguageModel
from keeps.numerics.forgetting_losses import flatness, next_multiplier
from keeps.registry import method
from keeps.settings import setting
from keeps.training.examples import tokenise
from keeps.training.forgetting import TokenForgetting
from keeps.training.keeping import Replay
from keeps.training.preferences import response_logprobs
from keeps.training.unlearn import Objective, RetainSettings, Unlearner, forget_examples

CURVE = "multiplier"


@dataclass(frozen=True, kw_only=True)
class PDUSettings(RetainSettings):
    """Settings of PDU."""

    bound: float | None = setting(
        None, "Bound eps of the mean loss on the retain set (default: by tolerance)", gt=0, unit="nats per token"
    )
    tolerance: float = setting(0.1, "Share by which the retain loss may rise, where no bound is given", ge=0)
    multiplier: float = setting(1.0, "Multiplier lambda at the start", ge=0)
    dual_rate: float = setting(1.0, "Step size eta of the multiplier", gt=0)
    dual_warmup: int = setting(5, "Epochs in which the multiplier stays as it is", ge=0)

    def check(self) -> None:
        """Refuse settings that would do nothing."""
        super().check()
        self.refuse_idle(("tolerance",), self.bound is not None, "bound is given")
        self.refuse_idle(("retain_weight",), True, "the multiplier is the weight of the retain set")
        self.refuse_idle(("retain_loss",), True, "the bound is one of the loss on right answers")


class Constraint:
    """lambda (L_r - eps) as a regulariser, and the dual step as an ``after_step`` hook.

    Args:
        term: gives L_r of a fresh draw.
        bound: eps.
        held: steps after which the multiplier starts to move.
    """

    def __init__(
        self, term: Callable[[nn.Module], Tensor], bound: float, *, start: float, rate: float, held: int, run: Run
    ) -> None:
        self.term, self.bound, self.start, self.rate, self.held, self.run = term, bound, start, rate, held, run
        self.losses: list[Tensor] = []  # of the forward passes of the step

    @property
    def multiplier(self) -> float:
        """lambda as it was logged last: checkpoints hold the curves, so a continued run finds it too."""
        return next((value for name, _, value in reversed(self.run.curves) if name == CURVE), self.start)

    def __call__(self, module: nn.Module) -> Tensor:
        """The term of this pass, a float32 scalar."""
        found = self.term(module)
        self.losses.append(found.detach())
        return self.multiplier * (found - self.bound)

    def after_step(self, module: nn.Module, step: int, optimiser: Any) -> None:
        """The dual step, on the mean over the passes and processes of this step."""
        del module, optimiser
        loss = over_processes(torch.stack(self.losses).mean())
        self.losses.clear()
        now = self.multiplier
        later = next_multiplier(now, loss - self.bound, self.rate) if step > self.held else now
        self.run.log(step, retain_loss=loss, **{CURVE: later})


def over_processes(value: Tensor) -> float:
    """The mean of a scalar over the processes of a launch: all must take the same dual step."""
    import torch.distributed as distributed

    if distributed.is_available() and distributed.is_initialized():
        value = value.clone()
        distributed.all_reduce(value)
        value /= distributed.get_world_size()
    return float(value)


@method(
    "pdu",
    verb="unlearn",
    paper="arXiv:2506.05314",
    summary="Flatten the logits of the forget set as far as a bound on the retain loss allows, by primal-dual steps.",
    card="unlearning",
    needs=("forget", "retain"),
)
class PDU(Unlearner):
    """Primal-dual unlearning."""

    Settings = PDUSettings
    holds = "needs"

    def objective(self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None, run: Run) -> Objective:
        """The flatness of the forget set, and the constraint on the retain set."""
        s, pad = self.settings, model.encoder.pad_token_id
        assert retain is not None  # for it holds what it needs
        examples, kept = forget_examples(model, forget, s.window), tokenise(model, retain, window=s.window)
        before = -float(response_logprobs(model.model, kept, pad).sum()) / sum(each.answer_tokens for each in kept)
        bound = (1 + s.tolerance) * before if s.bound is None else s.bound
        run.measures |= {"retain_loss_before": before, "retain_bound": bound}
        term = Replay(kept, weight=1.0, batch_size=s.retain_batch, pad_token_id=pad)
        held = s.dual_warmup * s.steps_per_epoch(len(examples))
        constraint = Constraint(term, bound, start=s.multiplier, rate=s.dual_rate, held=held, run=run)

        def loss(logits: Tensor, targets: Tensor, _: Tensor | None) -> Tensor:
            del targets
            return flatness(logits)

        return Objective(
            examples,
            self.weighted(lambda module: TokenForgetting(module, loss)),
            constraint,
            after_step=constraint.after_step,
        )
