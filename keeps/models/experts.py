"""A bank of low-rank experts with a router beside a frozen linear layer (LoRAMoE, arXiv:2312.09979).

    y = W x + b + s sum_i g_i(x) B_i A_i x,   g(x) = softmax(R x) for every token,   s = alpha / rank

All experts are computed in one product with the stacked A and one with the stacked B; no loop runs over
tokens or experts. The gate depends on the token, so experts cannot be merged into W. What a loss needs of
a forward pass, the gates of every layer, is recorded by :mod:`keeps.models.expert_gates`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from keeps.errors import SettingsError, TargetError
from keeps.models.adapters import put_back, restore_trainable, trainable_flags
from keeps.models.locate import ModuleRef
from keeps.models.targets import find_targets, layer_ranks


@dataclass(frozen=True)
class ExpertsConfig:
    """What the experts of all layers have in common.

    Attributes:
        types: the type of each expert, from 0 to K - 1, each with one expert at least.
        rank: r of each expert; ``alpha`` belongs to it.
        top_k: how many experts a token goes to; None lets every expert run, as LoRAMoE does.
        dropout: on the experts' input while training; the router sees all of it.

    Raises:
        SettingsError: fewer than two experts, a type without an expert, or a number out of range.
    """

    types: tuple[int, ...]
    rank: int
    alpha: float
    top_k: int | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if len(self.types) < 2:
            raise SettingsError(f"{len(self.types)} expert leaves a router no choice", mend="give two or more")
        wanted = range(max(max(self.types) + 1, 1))
        empty = [kind for kind in wanted if kind not in self.types]
        if empty or min(self.types) < 0:
            what = f"no expert is of type {empty[0]}" if empty else f"{min(self.types)} is no type"
            mend = "number the types from 0, and give each an expert"
            raise SettingsError(what, where=f"expert types {list(self.types)}", mend=mend)
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            what = f"rank {self.rank}, alpha {self.alpha:g} or dropout {self.dropout:g} is out of range"
            raise SettingsError(what, mend="rank 1 or more, alpha above 0, dropout from 0 to below 1")
        if self.top_k is not None and not 1 <= self.top_k <= len(self.types):
            raise SettingsError(f"top_k is {self.top_k} of {len(self.types)} experts", mend="choose from 1 to all")

    @property
    def scaling(self) -> float:
        """s, the same for every expert."""
        return self.alpha / self.rank


class ExpertLinear(nn.Module):
    """A frozen linear layer with experts beside it.

    ``A`` is ``(experts, rank, in)``, ``B`` is ``(experts, out, rank)``, ``router`` is ``(experts, in)``;
    all three are float32 and not yet set: :meth:`start` draws them, or they are read from a file.
    """

    def __init__(self, base: nn.Linear, config: ExpertsConfig, name: str = "") -> None:
        super().__init__()
        self.base_layer, self.config, self.name = base, config, name
        count, place = len(config.types), base.weight.device
        ref = ModuleRef.of(name, base)
        self.A = nn.Parameter(torch.empty(count, config.rank, ref.in_features, device=place))
        self.B = nn.Parameter(torch.empty(count, ref.out_features, config.rank, device=place))
        self.router = nn.Parameter(torch.empty(count, ref.in_features, device=place))
        self.record: dict[str, Tensor] | None = None
        self.train(base.training)

    def start(self) -> None:
        """B = 0; A and router Kaiming-uniform with a = root of 5, which is uniform in ±1 / root of in."""
        with torch.no_grad():
            for weight in (self.A, self.router):
                bound = 1 / math.sqrt(weight.shape[-1])
                weight.uniform_(-bound, bound)
            self.B.zero_()

    @property
    def weight(self) -> Tensor:
        """The frozen weight, for code that asks a linear layer for its dtype or device."""
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias."""
        return self.base_layer.bias

    def gate(self, x: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., experts)``, float32 whatever the model computes in; sums to 1."""
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would lose the small differences
            logits = functional.linear(x.float(), self.router)
        if self.config.top_k is not None:
            chosen = logits.topk(self.config.top_k, dim=-1)
            logits = torch.full_like(logits, -torch.inf).scatter(-1, chosen.indices, chosen.values)
        return logits.softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., out)``."""
        gate = self.gate(x)
        if self.record is not None:
            self.record[self.name] = gate
        count, rank = self.A.shape[:2]
        inner = functional.dropout(x, self.config.dropout, self.training)
        if not torch.is_autocast_enabled(x.device.type):
            inner = inner.to(self.A.dtype)
        low = functional.linear(inner, self.A.flatten(0, 1)).unflatten(-1, (count, rank))
        low = low * (self.config.scaling * gate).to(low.dtype).unsqueeze(-1)  # (..., experts, rank)
        up = self.B.transpose(0, 1).flatten(1)  # (out, experts * rank)
        y = self.base_layer(x)
        return y + functional.linear(low.flatten(-2), up).to(y.dtype)


@dataclass
class WrappedExperts:
    """A model with experts in its layers, and the means to take them out again."""

    model: Any
    config: ExpertsConfig
    layers: dict[str, ExpertLinear]  # by the name of the linear layer in the base model
    trainable: dict[str, bool] = field(default_factory=dict)  # parameter of the base -> whether it could be trained

    def tensors(self) -> dict[str, Tensor]:
        """``NAME.A``, ``NAME.B`` and ``NAME.router`` of every layer, detached."""
        return {
            f"{name}.{part}": getattr(layer, part).detach()
            for name, layer in self.layers.items()
            for part in ("A", "B", "router")
        }

    def unwrap(self) -> Any:
        """Put the linear layers back, whose weights nothing has touched; a second call does nothing."""
        if self.layers:
            put_back(self.model, self.layers)
            restore_trainable(self.model, self.trainable)
        self.layers = {}
        return self.model


def wrap_experts(model: Any, config: ExpertsConfig, targets: Sequence[str]) -> WrappedExperts:
    """Put experts beside the layers that ``targets`` names; everything else is frozen.

    A and router are drawn from torch's random numbers as they stand; B = 0, so nothing changes yet.

    Raises:
        TargetError: no layer matches, the rank does not fit one, or the model carries an adapter.
    """
    layers = find_targets(model, targets)
    layer_ranks(layers, config.rank, {})
    wrapped = put_experts(model, config, layers)
    for layer in wrapped.layers.values():
        layer.start()
    return wrapped


def put_experts(model: Any, config: ExpertsConfig, layers: Mapping[str, nn.Linear]) -> WrappedExperts:
    """As :func:`wrap_experts`, with the layers themselves, and tensors that are not set yet."""
    trainable = trainable_flags(model)
    model.requires_grad_(False)
    wrapped = {name: ExpertLinear(layer, config, name) for name, layer in layers.items()}
    for name, layer in wrapped.items():
        model.set_submodule(name, layer)
    return WrappedExperts(model, config, wrapped, trainable)


def expert_layers(model: nn.Module) -> dict[str, ExpertLinear]:
    """The layers with experts, by the name that each had in the base model.

    Raises:
        TargetError: there is none.
    """
    found = {module.name: module for module in model.modules() if isinstance(module, ExpertLinear)}
    if not found:
        raise TargetError("the model has no experts", mend="wrap it first, or apply a change that has them")
    return found
