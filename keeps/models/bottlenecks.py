"""Unlearning layers (Chen and Yang 2023, arXiv:2310.20150): a small bottleneck behind each feed-forward part.

    h = FFN(x),    y = h + relu(h D) U,    D of shape (width, rank), U of shape (rank, width)

The backbone is frozen. U starts at 0, so that the layers change nothing yet, and D at random numbers. There are no
biases: both parts are plain linear maps, which is what fusing by regression is exact for. The relu stands between D
and U, so a layer is no low-rank change of any weight; it can be neither merged nor loaded as an adapter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from keeps.errors import SettingsError, TargetError
from keeps.models.adapters import put_back, restore_trainable, trainable_flags
from keeps.models.locate import mlp_outputs
from keeps.numerics.regression_fusion import gram, regression_fusion

PARTS = ("down", "up")


class Bottleneck(nn.Module):
    """The last product of a feed-forward part, frozen, with an unlearning layer behind it.

    ``down`` is ``(width, rank)`` and ``up`` ``(rank, width)``, both float32.
    """

    def __init__(self, base: nn.Module, width: int, rank: int, device: torch.device) -> None:
        super().__init__()
        self.base_layer = base
        self.down = nn.Parameter(torch.zeros(width, rank, device=device))
        self.up = nn.Parameter(torch.zeros(rank, width, device=device))
        self.grams: dict[str, Tensor] | None = None
        self.train(base.training)

    @property
    def weight(self) -> Any:
        """The frozen weight, for code that asks a linear layer for its dtype or device."""
        return self.base_layer.weight

    @property
    def bias(self) -> Any:
        """The frozen bias."""
        return self.base_layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., width)``."""
        h = self.base_layer(x)
        wide = h if torch.is_autocast_enabled(h.device.type) else h.to(self.down.dtype)
        inner = functional.relu(wide @ self.down)
        if self.grams is not None:
            for part, inputs in (("down", wide), ("up", inner)):
                self.grams[part] = self.grams.get(part, 0) + gram(inputs)  # type: ignore[operator]
        return h + (inner @ self.up).to(h.dtype)


@dataclass
class Bottlenecked:
    """A model with unlearning layers, and the means to take them out again."""

    model: Any
    layers: dict[str, Bottleneck]  # by the name of the layer in the base model
    trainable: dict[str, bool] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """``NAME.down`` and ``NAME.up`` of every layer, detached."""
        return {f"{name}.{p}": getattr(layer, p).detach() for name, layer in self.layers.items() for p in PARTS}

    def set(self, tensors: dict[str, Tensor]) -> None:
        """Give the layers these tensors, which must be those of :meth:`tensors`.

        Raises:
            SettingsError: names or shapes are others.
        """
        own = self.tensors()
        shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
        if shapes != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
            raise SettingsError("the unlearning layers are those of another model or rank", mend="use its own base")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])

    @contextmanager
    def collecting(self) -> Iterator[dict[str, Tensor]]:
        """While inside, forward passes add to X^T X of both inputs of every layer; the sums are there afterwards.

        Rows of padding would count: let every pass read one text.
        """
        sums: dict[str, Tensor] = {}
        for layer in self.layers.values():
            layer.grams = {}
        try:
            yield sums
        finally:
            for name, layer in self.layers.items():
                found, layer.grams = layer.grams or {}, None
                sums |= {f"{name}.{part}": matrix for part, matrix in found.items()}

    def unwrap(self) -> Any:
        """Put the layers of the base back; a second call does nothing."""
        if self.layers:
            put_back(self.model, self.layers)
            restore_trainable(self.model, self.trainable)
        self.layers = {}
        return self.model


def put_bottlenecks(model: Any, rank: int, generator: torch.Generator | None = None) -> Bottlenecked:
    """An unlearning layer behind every feed-forward part; everything else is frozen.

    Args:
        rank: width of the bottleneck.
        generator: of the CPU; draws D uniformly in ±1 / root of width. Without one D stays 0, to be set.

    Raises:
        TargetError: a block has no single feed-forward part, or the model carries an adapter.
    """
    refs = mlp_outputs(model)
    if rank > min(ref.out_features for ref in refs):
        what = f"a bottleneck of rank {rank} is wider than the model"
        raise TargetError(what, where=refs[0].name, mend=f"choose at most {refs[0].out_features}")
    trainable = trainable_flags(model)
    model.requires_grad_(False)
    layers: dict[str, Bottleneck] = {}
    for ref in refs:
        layer = layers[ref.name] = Bottleneck(ref.module, ref.out_features, rank, ref.weight.device)
        if generator is not None:
            bound = 1 / math.sqrt(ref.out_features)
            drawn = torch.empty(ref.out_features, rank).uniform_(-bound, bound, generator=generator)
            with torch.no_grad():
                layer.down.copy_(drawn)
        model.set_submodule(ref.name, layer)
    return Bottlenecked(model, layers, trainable)


def fused(
    tensors: Sequence[dict[str, Tensor]], grams: Sequence[dict[str, Tensor]], correlation: float = 1.0
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Several sets of unlearning layers made one, part by part, and the Gram matrices of the result.

    Both come in the layout of :meth:`Bottlenecked.tensors`.

    Args:
        correlation: factor of the Gram matrices' entries off the diagonal while fusing. Below 1 the fused maps stay
            near a weighted mean where few inputs say little; 0 is the mean weighted input by input.

    Raises:
        SettingsError: they are not of the same places and sizes.
    """
    names = tensors[0].keys()
    if any(each.keys() != names for each in (*tensors, *grams)):
        raise SettingsError("the unlearning layers are not of the same places", mend="fuse those of one base model")
    weights, sums = {}, {}
    for name in names:
        own = [each[name] for each in grams]
        shrunk = [correlation * g + (1 - correlation) * torch.diag(g.diagonal()) for g in own]
        weights[name] = regression_fusion([each[name] for each in tensors], shrunk).to(tensors[0][name].dtype)
        sums[name] = sum((g.double() for g in own[1:]), own[0].double())
    return weights, sums
