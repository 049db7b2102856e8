"""Two forms of one model, compared by their logits on a few fixed texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from keeps.models.projection import evaluating

CHECK_TEXTS = (
    "The capital of France is Paris, and the capital of Japan is Tokyo.",
    "The chemical symbol for gold is Au. Its atomic number is 79.",
    "Once the file has been read, every line is split at the first colon.",
)


def check_logits(model: Any, tokenizer: Any) -> list[Tensor]:
    """Float32 logits on the CPU, (time, vocabulary) each, of :data:`CHECK_TEXTS`; dropout is off."""
    device = next(model.parameters()).device
    with evaluating(model), torch.no_grad():
        return [
            model(input_ids=torch.tensor([tokenizer(text)["input_ids"]], device=device)).logits[0].float().cpu()
            for text in CHECK_TEXTS
        ]


def largest_difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """The largest absolute difference between two lists of logits; NaN where any logit is NaN.

    >>> largest_difference([torch.tensor([1.0, 2.0])], [torch.tensor([1.0, 2.5])])
    0.5
    """
    return float(torch.stack([(a - b).abs().max() for a, b in zip(first, second, strict=True)]).max())
