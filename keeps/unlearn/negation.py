"""Negation: learn what is to be forgotten, and subtract what that added (Ilharco et al. 2023, arXiv:2212.04089).

    theta_new = theta_0 - lambda (theta_f - theta_0)

theta_f is the model fine-tuned on the forget set. No gradient is ever taken on the model that is kept. lambda is the
largest of 1, 0.95, ... 0 that keeps at least 95 % of the control metric: how likely the right answers of the retain
set are per token, or, without one, held-out running text.

Of an adapter the difference is the *product* s B A, so B alone is multiplied by -lambda (Zhang et al. 2023,
arXiv:2306.14870); to negate both factors changes nothing. The result is a plain LoRA.

Use when: a behaviour or a style should go rather than a single fact; unlearning must be cheap and reversible; there
is an adapter for what is unwanted and its opposite is needed.

Needs: what is to be forgotten; a retain set as control. Guarantees: the control metric, on the control set.

``strength`` gives lambda instead of searching for it. Where no lambda above 0 keeps the control metric the result
forgets nothing, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.data.text import text_passages
from keeps.models.adapters import ADAPTER, lora_layers
from keeps.models.changes import StoredChange
from keeps.models.language_model import LanguageModel
from keeps.numerics.task_vectors import negated, negated_factors
from keeps.registry import method
from keeps.settings import setting
from keeps.training.batches import TokenizedExample
from keeps.training.examples import tokenise
from keeps.training.loop import train
from keeps.training.preferences import response_logprobs
from keeps.training.unlearn import Unlearner, UnlearnSettings, check_sets, forget_examples, written

STEP = 0.05
CONTROL_TEXTS = 12  # passages of held-out text that are the control where nothing is to be retained


@dataclass(frozen=True, kw_only=True)
class NegationSettings(UnlearnSettings):
    """Settings of negation. The learning rate is that of learning the forget set."""

    loss_falls: ClassVar[bool] = True

    strength: float | None = setting(None, "lambda; by default the largest that keeps the control metric", ge=0, le=10)
    keep_share: float = setting(0.95, "Share of the control metric that lambda must keep", gt=0, le=1)

    def check(self) -> None:
        """Refuse settings that would do nothing."""
        super().check()
        self.refuse_idle(("keep_share",), self.strength is not None, "strength is given")
        self.refuse_idle(("stop",), True, "what is trained here learns the forget set")


@method(
    "negation",
    verb="unlearn",
    paper="arXiv:2212.04089",
    summary="Fine-tune on the forget set and subtract the difference, as far as the control metric allows.",
    card="unlearning",
    needs=("forget",),
    uses=("retain",),
)
class Negation(Unlearner):
    """Task-vector negation, of all weights or of an adapter."""

    Settings = NegationSettings

    def objective(self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None, run: Run) -> Any:
        """There is none: what is trained is the opposite."""
        raise TypeError("negation minimises the loss on the forget set, and subtracts")

    def __call__(
        self, model: LanguageModel, forget: RecordSet, retain: RecordSet | None = None, *, run: Run
    ) -> StoredChange:
        """Learn ``forget``, choose lambda on ``retain``, and write the model without what was learned."""
        s = self.settings
        s.check_model(model)
        check_sets(forget, retain)
        forget_examples(model, forget, s.window)
        examples, control = tokenise(model, forget, window=s.window), self.control(model, retain)
        pad = model.encoder.pad_token_id
        before = likelihood(model.model, control, pad)
        whole = s.parameters == "full"
        originals = {name: value.detach().clone() for name, value in model.model.named_parameters()} if whole else None

        def training(module: Any) -> None:
            train(module, examples, s, run, pad_token_id=pad)
            move = _mover(module, originals)
            found = s.strength
            if found is None:
                found = largest_strength(
                    lambda strength: _after(move, strength, lambda: likelihood(module, control, pad)),
                    before * s.keep_share,
                )
                if not found:
                    run.progress.message("no lambda above 0 keeps the control metric: nothing is forgotten")
            move(found)
            run.measures |= {"strength": found, "control_before": before}
            run.measures["control_after"] = likelihood(module, control, pad)

        data = {"forget": forget.fingerprint}
        data |= {"retain": retain.fingerprint} if retain is not None and len(retain) else {}
        return written(model, forget, training, s, run, method="negation", data=data)

    def control(self, model: LanguageModel, retain: RecordSet | None) -> list[TokenizedExample]:
        """What the control metric is taken on."""
        if retain is not None and len(retain):
            return tokenise(model, retain, window=self.settings.window)
        texts = text_passages().part("test")
        return tokenise(model, RecordSet("text", texts.records[:CONTROL_TEXTS]), window=self.settings.window)


def likelihood(module: Any, examples: Sequence[TokenizedExample], pad_token_id: int) -> float:
    """The control metric: exp of the mean log-probability of a token, averaged over the examples, in [0, 1]."""
    found = response_logprobs(module, examples, pad_token_id).tolist()
    shares = [math.exp(value / example.answer_tokens) for value, example in zip(found, examples, strict=True)]
    return math.fsum(shares) / len(shares)


def largest_strength(metric: Callable[[float], float], least: float, step: float = STEP) -> float:
    """The largest of 1, 1 - step, ..., 0 at which ``metric`` is at least ``least``; 0 needs no test.

    >>> largest_strength(lambda strength: 1 - strength, 0.7)
    0.3
    """
    count = round(1 / step)
    for number in range(count, 0, -1):
        strength = round(number * step, 10)
        if metric(strength) >= least:
            return strength
    return 0.0


def _after(move: Callable[[float], None], strength: float, measure: Callable[[], float]) -> float:
    move(strength)
    return measure()


def _mover(module: Any, originals: dict[str, torch.Tensor] | None) -> Callable[[float], None]:
    """A function that sets the weights to those of a lambda; ``originals`` where all weights were trained."""
    if originals is not None:
        tuned = {name: value.detach().clone() for name, value in module.named_parameters()}

        def weights(strength: float) -> None:
            with torch.no_grad():
                for name, parameter in module.named_parameters():
                    parameter.copy_(negated(originals[name], tuned[name], strength))

        return weights
    layers = lora_layers(module)
    factors = {
        name: (layer.lora_A[ADAPTER].weight.detach().clone(), layer.lora_B[ADAPTER].weight.detach().clone())
        for name, layer in layers.items()
    }

    def adapter(strength: float) -> None:
        with torch.no_grad():
            for name, layer in layers.items():
                _, b = negated_factors(*factors[name], strength, factor="b")
                layer.lora_B[ADAPTER].weight.copy_(b)

    return adapter
