"""The factors of a LoRA that is trained on examples and taken out of the model again."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from keeps.contracts import Run
from keeps.models.adapters import Factors, wrap_lora
from keeps.models.language_model import LanguageModel
from keeps.models.plain_layers import plain_layers
from keeps.training.circumstances import own_random_numbers
from keeps.training.examples import TokenizedExample
from keeps.training.loop import train
from keeps.training.settings import TrainingSettings


def lora_factors(
    model: LanguageModel,
    examples: Sequence[TokenizedExample],
    settings: TrainingSettings,
    run: Run,
    *,
    targets: tuple[str, ...],
    rank: int,
) -> Factors:
    """A ``(rank, in)`` and B ``(out, rank)`` of each layer, whose scaling is 1; ``model`` is as it was afterwards."""
    with plain_layers(model.model):
        with own_random_numbers(model.device):
            torch.manual_seed(run.seed)
            wrapped = wrap_lora(model.model, targets=targets, rank=rank, alpha=float(rank))
        try:
            train(wrapped.peft_model, examples, settings, run, pad_token_id=model.encoder.pad_token_id)
            return wrapped.factors()
        finally:
            wrapped.unwrap()
