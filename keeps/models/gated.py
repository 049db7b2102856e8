"""A gate on each rank of a LoRA layer: W x + s B (g * (A x)), with one trained number g_j per rank.

KaSA (arXiv:2412.06071) reads g as the singular values of the change, CoDyRA (arXiv:2412.01004) as the
importance of its rank-one pieces. The gate is multiplied into A when factors are read, so what is
written is a plain LoRA.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional

from keeps.errors import TargetError
from keeps.models.adapters import ADAPTER, lora_layers


class GatedDown(nn.Linear):
    """The A of a LoRA layer with a gate behind it: g * (A x).

    Takes over the weight of ``down``, ``(rank, in)``; ``gate`` is ``(rank,)`` and float32.
    """

    def __init__(self, down: nn.Linear, gate: Tensor) -> None:
        nn.Module.__init__(self)  # not that of Linear, which would draw a weight
        rank, width = down.weight.shape
        if gate.shape != (rank,):
            raise TargetError(f"a gate of shape {tuple(gate.shape)} does not fit an adapter of rank {rank}")
        self.in_features, self.out_features = width, rank
        self.weight, self.bias = down.weight, None
        self.gate = nn.Parameter(gate.detach().to(down.weight).clone())

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name that Linear gives it)
        """``(..., in)`` to ``(..., rank)``."""
        return functional.linear(input, self.weight) * self.gate


def add_gates(peft_model: Any, gates: dict[str, Tensor]) -> None:
    """Put a trainable gate into every LoRA layer of ``peft_model``.

    Args:
        gates: layer name -> initial gate, ``(rank,)``.

    Raises:
        TargetError: a layer has no gate given, has one already, or a gate is of the wrong length.
    """
    layers = lora_layers(peft_model)
    if layers.keys() != gates.keys():
        odd = sorted(layers.keys() ^ gates.keys())
        raise TargetError("the gates given are not those of the adapted layers", where=", ".join(odd[:3]))
    for name, layer in layers.items():
        down = layer.lora_A[ADAPTER]
        if isinstance(down, GatedDown):
            raise TargetError("the layer has a gate already", where=name, mend="wrap the model anew")
        layer.lora_A[ADAPTER] = GatedDown(down, gates[name])


def gates_of(peft_model: Any) -> dict[str, nn.Parameter]:
    """The gate of every gated layer, ``(rank,)``, by the layer's name in the base model."""
    downs = {name: layer.lora_A[ADAPTER] for name, layer in lora_layers(peft_model).items()}
    return {name: cast(GatedDown, down).gate for name, down in downs.items() if isinstance(down, GatedDown)}
