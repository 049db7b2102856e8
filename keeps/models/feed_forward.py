"""The feed-forward part of each block as matrices: W_g, W_u, W_d, biases and the activation.

Found from the structure (which linear layers stand beside the down-projection, and what they multiply), and believed
only after the matrices have given what the module gives on random inputs: fused, scaled or clipped layers are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from keeps.errors import TargetError
from keeps.models.locate import ModuleRef, is_linear, mlp_outputs
from keeps.models.projection import evaluating, unwrapped

CHECKED = 8  # random inputs


@dataclass(frozen=True)
class FeedForward:
    """F(x) = W_d (act(W_g x) * (W_u x + b_u)) + b_d, or without a gate W_d act(W_u x + b_u) + b_d.

    Attributes:
        padding: channels of zeros that are to be added behind the last one.
    """

    name: str
    module: nn.Module
    up_ref: ModuleRef
    down_ref: ModuleRef
    gate_ref: ModuleRef | None
    activation: Callable[[Tensor], Tensor]
    padding: int = 0

    @property
    def width(self) -> int:
        """Of the inputs."""
        return self.up_ref.in_features

    @property
    def channels(self) -> int:
        """Inner ones, with the padding."""
        return self.up_ref.out_features + self.padding

    @property
    def up(self) -> Tensor:
        """W_u, ``(channels, width)``: a view of the parameter unless there is padding."""
        return _padded(self.up_ref.matrix, self.padding, 0)

    @property
    def up_bias(self) -> Tensor | None:
        """b_u, ``(channels,)``."""
        bias = _bias(self.up_ref)
        return None if bias is None else _padded(bias, self.padding, 0)

    @property
    def down_bias(self) -> Tensor | None:
        """b_d, ``(width,)``; it belongs to no channel and is added once."""
        return _bias(self.down_ref)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the tensors that are cut into pieces."""
        gate = ("gate",) if self.gate_ref is not None else ()
        return (*gate, "up", *(("up_bias",) if _bias(self.up_ref) is not None else ()), "down")

    def ordered(self, order: Tensor | None) -> dict[str, Tensor]:
        """The tensors of :attr:`names` with their channels in this order; None: as they are, which copies nothing."""
        found: dict[str, Tensor] = {}
        for name in self.names:
            if name == "down":
                value = _padded(self.down_ref.matrix, self.padding, 1)
                found[name] = value if order is None else value[:, order.to(value.device)]
                continue
            bias = self.up_bias
            gate = self.gate_ref
            value = _padded(gate.matrix, self.padding, 0) if name == "gate" and gate is not None else self.up
            value = bias if name == "up_bias" and bias is not None else value
            found[name] = value if order is None else value[order.to(value.device)]
        return found

    def without_bias(self, rows: Tensor) -> Tensor:
        """F(x) - b_d of the layer as it is, ``(tokens, width)``."""
        up = functional.linear(rows, self.up_ref.matrix, _bias(self.up_ref))
        gate = self.gate_ref
        inner = self.activation(up) if gate is None else self.activation(functional.linear(rows, gate.matrix)) * up
        return functional.linear(inner, self.down_ref.matrix)

    def padded(self, experts: int, pad: bool) -> FeedForward:
        """The same with so many channels of zeros that ``experts`` blocks are equal.

        Raises:
            TargetError: channels are missing and ``pad`` is False, or a channel of zeros would not give zero.
        """
        missing = -self.up_ref.out_features % experts
        if not missing:
            return self
        if not pad:
            what = f"{self.up_ref.out_features} channels cannot be cut into {experts} equal blocks"
            raise TargetError(what, where=self.name, mend="choose another number of experts, or allow pad")
        if self.gate_ref is None and bool(self.activation(torch.zeros(1)) != 0):
            raise TargetError("the activation of 0 is not 0, so padding would count", where=self.name)
        return replace(self, padding=missing)


def feed_forwards(model: nn.Module) -> dict[str, FeedForward]:
    """The feed-forward part of each block in order, by the name of its module.

    Raises:
        TargetError: a block has none, or one that is not understood: fused or quantised weights, several experts.
    """
    base = unwrapped(model)
    found = {}
    with evaluating(base):
        for down in mlp_outputs(base):
            name = down.name.rpartition(".")[0]
            found[name] = _understood(name, base.get_submodule(name), down)
    return found


def _understood(name: str, module: nn.Module, down: ModuleRef) -> FeedForward:
    linear = {own: child for own, child in module.named_children() if is_linear(child) and child is not down.module}
    refs = [ModuleRef.of(f"{name}.{own}", child) for own, child in linear.items()]
    activation = next(
        (getattr(module, own) for own in ("act_fn", "act", "activation_fn") if hasattr(module, own)), None
    )
    mend = "choose a transformer whose feed-forward layers are up, gate and down, not fused"
    unknown = TargetError(f"the feed-forward layer {type(module).__name__} is not understood", where=name, mend=mend)
    shapes = {(ref.out_features, ref.in_features) for ref in refs}
    if not refs or len(refs) > 2 or activation is None or shapes != {(down.in_features, down.out_features)}:
        raise unknown
    gates = [ref for ref in refs if "gate" in ref.name.rpartition(".")[2]] if len(refs) == 2 else []
    if len(gates) != len(refs) - 1 or any(_bias(ref) is not None for ref in gates):
        raise unknown
    up = next(ref for ref in refs if ref not in gates)
    found = FeedForward(name, module, up, down, gates[0] if gates else None, cast(Any, activation))
    if not _agrees(found):
        raise unknown
    return found


@torch.no_grad()
def _agrees(found: FeedForward) -> bool:
    weight = found.up_ref.weight
    x = torch.randn(CHECKED, found.width, generator=torch.Generator().manual_seed(0)).to(weight)
    wanted = cast(Any, found.module)(x[None])
    if not isinstance(wanted, Tensor):
        return False
    bias = found.down_bias
    mine = found.without_bias(x)
    mine, wanted = (mine if bias is None else mine + bias).float(), wanted[0].float()
    share = 1e-4 if weight.dtype == torch.float32 else 3e-2
    return bool((mine - wanted).abs().max() <= share * wanted.abs().max().clamp_min(1e-6))


def _bias(ref: ModuleRef) -> Tensor | None:
    bias = getattr(ref.module, "bias", None)
    return None if bias is None else bias.detach()


def _padded(tensor: Tensor, missing: int, dimension: int) -> Tensor:
    """Zeros behind the last entry along a dimension; the tensor itself where none are missing."""
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[dimension] = missing
    return torch.cat([tensor, tensor.new_zeros(shape)], dimension)
