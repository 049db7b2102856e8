"""The gates of a forward pass, recorded while it runs: for the balancing constraint, and for looking at them.

Layers only put their gates aside; sums are formed afterwards, so that a pass which activation
checkpointing repeats finds the same operations in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from keeps.errors import SettingsError, TargetError, nearest
from keeps.models.experts import ExpertLinear, expert_layers
from keeps.numerics.balance import DIRECTIONS, MEASURES, Direction, Measure, balance_loss, importance

REDUCTIONS = ("mean_layers", "sum_layers")


class Gates:
    """The gates of one forward pass, of all layers."""

    def __init__(self, layers: Mapping[str, ExpertLinear], mask: Tensor | None, types: Tensor | None) -> None:
        self.layers, self.mask, self.types = layers, mask, types
        self.config = next(iter(layers.values())).config
        self.by_layer: dict[str, Tensor] = {}
        if types is None:
            return
        known = set(self.config.types)
        odd = sorted(set(types.tolist()) - known)
        if odd:
            what = f"a sample is of type {odd[0]}, of which there is no expert"
            raise SettingsError(what, mend=f"give the types {sorted(known)}")
        if mask is not None and len(types) != len(mask):
            raise SettingsError(f"{len(types)} types for {len(mask)} samples", mend="give one for each")

    def stacked(self) -> tuple[Tensor, Tensor]:
        """The gates, ``(layers, samples, time, experts)``, and the mask, ``(samples, time)``.

        Rows that were packed into one, without padding, are put side by side again.

        Raises:
            TargetError: nothing was recorded, or the layers saw other tokens than those of the mask.
        """
        if not self.by_layer:
            raise TargetError("no gate was recorded", mend="run the model inside recorded_gates(...) first")
        gates = torch.stack(list(self.by_layer.values()))
        if self.mask is None:
            return gates, torch.ones(gates.shape[1:-1], device=gates.device)
        flat, mask = gates.flatten(1, -2), self.mask.to(gates.device)  # (layers, tokens, experts)
        slots = mask.reshape(-1).nonzero().squeeze(1)
        if flat.shape[1] != mask.numel():
            if flat.shape[1] != len(slots):
                what = f"the layers saw {flat.shape[1]} tokens and the mask has {mask.numel()}, {len(slots)} of them 1"
                raise TargetError(what, mend="give the attention mask of this forward pass")
            flat = flat.new_zeros(len(flat), mask.numel(), flat.shape[-1]).index_copy(1, slots, flat)
        return flat.unflatten(1, tuple(mask.shape)), mask

    def balance_loss(
        self,
        delta: float = 0.1,
        *,
        measure: Measure = "cv2",
        direction: Direction = "objective",
        reduction: str = "sum_layers",
        per_token: bool = False,
    ) -> Tensor:
        """The localised balancing constraint, a float32 scalar; see :mod:`keeps.numerics.balance`.

        Args:
            reduction: ``"sum_layers"`` as published, whose weight grows with depth, or ``"mean_layers"``.

        Raises:
            SettingsError: the types are missing, delta is outside [0, 1], or an option is unknown.
            TargetError: as in :meth:`stacked`, or no gradient can reach the routers.
        """
        if self.types is None:
            raise SettingsError("the types of the samples are missing", mend="give types=, one for each sample")
        for name, value, known in (
            ("measure", measure, MEASURES),
            ("direction", direction, DIRECTIONS),
            ("reduction", reduction, REDUCTIONS),
        ):
            if value not in known:
                raise SettingsError(f'{name} is "{value}"', mend=nearest(value, known))
        if not 0 <= delta <= 1:
            raise SettingsError(f"delta is {delta:g}", mend="choose a value from 0 to 1")
        gates, mask = self.stacked()
        trained = any(layer.router.requires_grad for layer in self.layers.values())
        if torch.is_grad_enabled() and trained and not gates.requires_grad:
            mend = "checkpoint activations with use_reentrant=False"
            raise TargetError("the gates were recorded without gradients", mend=mend)
        if len(self.types) != len(mask):
            raise SettingsError(f"{len(self.types)} types for {len(mask)} samples", mend="give one for each")
        q = importance(gates, mask, per_token=per_token)
        types = torch.tensor(self.config.types, device=q.device)
        losses = balance_loss(q, types, self.types.to(q.device), delta, measure=measure, direction=direction)
        return losses.sum() if reduction == "sum_layers" else losses.mean()


@contextmanager
def recorded_gates(
    model: nn.Module, *, mask: Tensor | None = None, types: Tensor | Sequence[int] | None = None
) -> Iterator[Gates]:
    """Record the gates of the forward pass inside the block; of several, the last one.

    A pass that activation checkpointing repeats overwrites what it recorded with the same, so every
    layer counts once.

    Args:
        mask: ``(samples, time)``, 1 on tokens and 0 on padding; None means that all are tokens.
        types: the type of each sample, which :meth:`Gates.balance_loss` needs.

    Raises:
        TargetError: the model has no experts.
        SettingsError: types of the wrong number, or of which there is no expert.
    """
    layers = expert_layers(model)
    gates = Gates(layers, mask, None if types is None else torch.as_tensor(types))
    before = {name: layer.record for name, layer in layers.items()}
    for layer in layers.values():
        layer.record = gates.by_layer
    try:
        yield gates
    finally:
        for name, layer in layers.items():
            layer.record = before[name]
