"""Which data goes to which expert: the gates of every layer, averaged over the tokens of each kind of data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from keeps.errors import EmptySetError
from keeps.models.expert_gates import recorded_gates
from keeps.models.experts import expert_layers
from keeps.models.projection import evaluating, hidden_states
from keeps.numerics.balance import load_entropy, load_variation, mass_by_type

DIGITS = 4  # of what is written down


class KindedBatch(Protocol):
    """Padded token ids with the kind of each row; :class:`keeps.training.batches.Batch` is one."""

    @property
    def input_ids(self) -> Tensor: ...
    @property
    def attention_mask(self) -> Tensor: ...
    @property
    def kinds(self) -> Tensor: ...


@dataclass(frozen=True)
class ExpertUsage:
    """How data spread over experts.

    Attributes:
        layers: names of the layers with experts.
        expert_types: the type of each expert.
        mass: kind of data -> ``(layers, experts)``, the mean gate over its tokens; rows sum to 1.
        tokens: kind of data -> how many tokens that were.
    """

    layers: tuple[str, ...]
    expert_types: tuple[int, ...]
    mass: Mapping[int, Tensor]
    tokens: Mapping[int, int]

    @property
    def load(self) -> Tensor:
        """``(layers, experts)``: the mean gate over all tokens."""
        total = sum(self.tokens.values())
        return torch.stack([self.mass[kind] * (count / total) for kind, count in self.tokens.items()]).sum(0)

    @property
    def variation(self) -> float:
        """Coefficient of variation of the load, mean over the layers."""
        return float(load_variation(self.load).mean())

    @property
    def entropy(self) -> float:
        """Entropy of the load as a share of its maximum, mean over the layers."""
        return float(load_entropy(self.load).mean())

    def experts(self, kind: int) -> list[float]:
        """The mass of each expert for one kind of data, mean over the layers."""
        return _rounded(self.mass[kind].mean(0))

    def groups(self, kind: int) -> list[float]:
        """The mass of the experts of each type for one kind of data, mean over the layers."""
        return _rounded(mass_by_type(self.mass[kind].mean(0), torch.tensor(self.expert_types)))

    def serves(self) -> list[int]:
        """For each type of expert, the kind of data that it gets most of: seldom the one of its own number."""
        kinds = list(self.mass)
        shares = torch.tensor([self.groups(kind) for kind in kinds])  # (kinds, types)
        return [kinds[index] for index in shares.argmax(0).tolist()]

    def to_mapping(self) -> dict[str, Any]:
        """JSON types: the figures over all layers, and the mass of every layer by kind."""
        return {
            "expert_types": list(self.expert_types),
            "serves": self.serves(),
            "load_variation": round(self.variation, DIGITS),
            "load_entropy": round(self.entropy, DIGITS),
            "tokens": {str(kind): count for kind, count in self.tokens.items()},
            "mass": {str(kind): self.experts(kind) for kind in self.mass},
            "layers": {
                name: {str(kind): _rounded(mass[row]) for kind, mass in self.mass.items()}
                for row, name in enumerate(self.layers)
            },
        }


def expert_usage(model: nn.Module, batches: Iterable[KindedBatch]) -> ExpertUsage:
    """Run the batches through the backbone and average the gates by kind; nothing is told to the router.

    Args:
        model: transformers causal language model with experts in its layers.
        batches: padded on the right; ``kinds`` may be any numbers.

    Raises:
        TargetError: the model has no experts.
        EmptySetError: there is no batch.
    """
    layers = expert_layers(model)
    sums: dict[int, Tensor] = {}
    tokens: dict[int, int] = {}
    with evaluating(model), torch.no_grad():
        for batch in batches:
            with recorded_gates(model, mask=batch.attention_mask) as recorded:
                hidden_states(model, batch.input_ids, batch.attention_mask)
            gates, mask = recorded.stacked()  # (layers, samples, time, experts), (samples, time)
            for kind in sorted(set(batch.kinds.tolist())):
                chosen = mask * (batch.kinds.to(mask.device) == kind)[:, None]
                part = torch.einsum("lmtn,mt->ln", gates.double(), chosen.double()).cpu()
                sums[kind] = sums.get(kind, 0) + part
                tokens[kind] = tokens.get(kind, 0) + int(chosen.sum())
    if not sums:
        raise EmptySetError("there is nothing to run through the experts", mend="give at least one batch")
    mass = {kind: (sums[kind] / tokens[kind]).float() for kind in sorted(sums)}
    types = next(iter(layers.values())).config.types
    return ExpertUsage(tuple(layers), types, mass, {kind: tokens[kind] for kind in mass})


def _rounded(values: Tensor) -> list[float]:
    return [round(value, DIGITS) for value in values.tolist()]
