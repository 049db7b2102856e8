"""LoRA-GA: start LoRA where its first step is closest to that of full fine-tuning (arXiv:2407.05000).

    G = dL/dW = U S V^T,   A = c V[:, :r]^T,   B = c U[:, r:2r],   c = out^(1/4) / gamma^(1/2),   W_res = W - s B A

The gradient of the loss on a few examples of the learn set is decomposed. Because A and B take different
singular vectors, the first step of gradient descent moves W by the best approximation of G of rank 2r.

Use when: an adapter should learn as fast as full fine-tuning; the first steps matter, because few are taken.

Needs: facts, examples or texts to learn. Guarantees: step 0 equals the base to rounding; the result is a LoRA
of rank 2r for the untouched base. Nothing protects what the model knew.

Gradients are formed a group of layers at a time (``gradient_memory``), and each is freed when it has been
decomposed, so that a large model needs no second copy of its size. Where the paper and peft differ:
the paper scales both factors by c, peft leaves A orthonormal and multiplies B by the singular values and c
(``variant="peft"``). peft takes the gradient in training mode, where dropout would disturb it; here it is
taken in evaluation mode, over all answer tokens alike.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.errors import StatisticsError
from keeps.models.language_model import LanguageModel
from keeps.models.plain_layers import on_plain_layers
from keeps.models.targets import find_targets, layer_ranks
from keeps.numerics.oriented import AdapterStart
from keeps.numerics.starts import VARIANTS, gradient_start
from keeps.registry import method
from keeps.settings import setting
from keeps.training.adapter import AdapterSettings
from keeps.training.examples import tokenise
from keeps.training.gradients import layer_gradients
from keeps.training.initialised import InitialisedAdapter


@dataclass(frozen=True, kw_only=True)
class LoRAGASettings(AdapterSettings):
    """Settings of LoRA-GA."""

    gradient_examples: int = setting(64, "Examples of the learn set that the gradient is taken on, at most", ge=1)
    gamma: float = setting(16.0, "Divides the squared length of the rows of A and columns of B", gt=0)
    variant: str = setting("paper", "Scale A and B alike, or B alone by the singular values (peft)", choices=VARIANTS)
    gradient_memory: float = setting(
        1024.0, "For gradients at a time; less costs more passes", gt=0, unit="MiB", advanced=True
    )

    @on_plain_layers
    def check_model(self, model: LanguageModel) -> None:
        """Refuse targets that match no layer, and ranks of which twice does not fit one."""
        super().check_model(model)
        layers = find_targets(model.model, self.targets)
        for name, rank in layer_ranks(layers, self.rank, self.rank_pattern).items():
            layer_ranks({name: layers[name]}, 2 * rank, {})  # A and B take r singular vectors each


@method(
    "lora_ga",
    verb="adapt",
    paper="arXiv:2407.05000",
    summary="LoRA whose first step is that of full fine-tuning, cut to rank 2r: learns fast, protects nothing.",
    card="corda",
    needs=("learn",),
    forms=("lora", "residual", "merged"),
)
class LoRAGA(InitialisedAdapter):
    """Low-rank adaptation with gradient approximation."""

    Settings = LoRAGASettings
    settings: LoRAGASettings

    def starts(
        self, model: LanguageModel, learn: RecordSet, keep: RecordSet | None, run: Run
    ) -> dict[str, AdapterStart]:
        """Decompose the gradient of each layer as it comes."""
        del keep
        settings = self.settings
        layers = find_targets(model.model, settings.targets)
        ranks = layer_ranks(layers, settings.rank, settings.rank_pattern)
        examples = tokenise(model, learn)
        random.Random(run.seed).shuffle(examples)
        examples = examples[: settings.gradient_examples]
        variant: Any = settings.variant
        found = {}
        gradients = layer_gradients(
            model.model,
            layers,
            examples,
            batch_size=settings.batch_size,
            pad_token_id=model.encoder.pad_token_id,
            memory=settings.gradient_memory,
            run=run,
        )
        with run.progress.task("gradients", len(layers)) as task:
            for name, gradient in gradients:
                try:
                    found[name] = gradient_start(gradient, ranks[name], gamma=settings.gamma, variant=variant)
                except StatisticsError as error:
                    raise StatisticsError(error.what, where=name, mend=error.mend) from None
                task.advance()
        run.measures["gradient_tokens"] = sum(example.answer_tokens for example in examples)
        return found
