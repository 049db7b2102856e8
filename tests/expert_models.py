"""Models with experts whose every number is random, for the tests of several rooms."""

from __future__ import annotations

from typing import Any

import torch

from keeps.models.experts import ExpertsConfig, WrappedExperts, wrap_experts

TYPES = (1, 1, 0, 0)
TARGETS = ("gate_proj", "up_proj", "down_proj")


def disturb(wrapped: WrappedExperts, seed: int = 0) -> WrappedExperts:
    """Random numbers everywhere, which stand for training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in wrapped.tensors().values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / tensor.shape[-1] ** 0.5)
    return wrapped


def wrapped_with(model: Any, **options: Any) -> WrappedExperts:
    values: dict[str, Any] = {"types": TYPES, "rank": 3, "alpha": 6.0, **options}
    return disturb(wrap_experts(model, ExpertsConfig(**values), TARGETS))
