"""AdamW over the trainable parameters, and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from keeps.training.settings import TrainingSettings
from keeps.training.sharding import is_shard


def make_optimiser(parameters: Mapping[str, torch.nn.Parameter], settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, arXiv:1711.05101); decay applies to matrices, not to biases and norms."""
    groups: list[dict[str, Any]] = []
    for sharded in (False, True):  # a fused update takes the ones or the others
        mine = [parameter for parameter in parameters.values() if is_shard(parameter) == sharded]
        matrices = [parameter for parameter in mine if parameter.ndim >= 2]
        vectors = [parameter for parameter in mine if parameter.ndim < 2]
        groups += [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters.values())
    betas = (0.9, settings.beta2)
    chosen = [group for group in groups if group["params"]]
    return torch.optim.AdamW(chosen, lr=settings.learning_rate, betas=betas, fused=fused)


def learning_rate_at(step: int, total: int, settings: TrainingSettings) -> float:
    """The learning rate of optimiser step ``step`` of ``total`` (counted from 0).

    It rises linearly over ``warmup * total`` steps, then falls to zero along half a cosine wave or a
    line (the value 0 itself would be that of step ``total``, which is never taken), or stays.

    >>> [round(learning_rate_at(step, 4, TrainingSettings(learning_rate=1.0, warmup=0.25)), 2) for step in range(4)]
    [1.0, 1.0, 0.75, 0.25]
    """
    rising = math.ceil(settings.warmup * total)
    if step < rising:
        return settings.learning_rate * (step + 1) / rising
    share = (step - rising) / max(1, total - rising)  # 0 right after the warm-up, 1 at the end
    factor = {"cosine": (1 + math.cos(math.pi * share)) / 2, "linear": 1 - share, "constant": 1.0}[settings.schedule]
    return settings.learning_rate * factor


def state_tensors(optimiser: torch.optim.Optimizer, names: Mapping[torch.Tensor, str]) -> dict[str, torch.Tensor]:
    """The optimiser's state as named tensors, ``"exp_avg/PARAMETER"`` and so on; not copies."""
    return {
        f"{key}/{names[parameter]}": value
        for parameter, state in optimiser.state.items()
        for key, value in state.items()
    }


def load_state_tensors(
    optimiser: torch.optim.Optimizer,
    tensors: Mapping[str, torch.Tensor],
    names: Mapping[torch.Tensor, str],
) -> None:
    """The inverse of :func:`state_tensors`; ``tensors`` are taken over, not copied."""
    keys = {name.split("/", 1)[0] for name in tensors}
    order = [names[parameter] for group in optimiser.param_groups for parameter in group["params"]]
    state = {
        index: {key: tensors[f"{key}/{name}"] for key in keys}
        for index, name in enumerate(order)
        if f"step/{name}" in tensors  # a parameter that never got a gradient has no state
    }
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
