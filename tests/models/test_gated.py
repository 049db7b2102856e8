"""Gates on the ranks of an adapter: the formula, and that what is written is a plain LoRA."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from keeps.errors import TargetError
from keeps.models.adapters import ADAPTER, added, lora_layers, wrap_lora
from keeps.models.gated import GatedDown, add_gates, gates_of

IDS = torch.arange(20).reshape(2, 10)


def gated_model(model: Any, *, seed: int = 0) -> Any:
    """The tiny model with gated adapters in all layers, every part of them random."""
    torch.manual_seed(seed)
    wrapped = wrap_lora(model, targets=("all-linear",), rank=3, alpha=6.0, rank_pattern={"q_proj": 2})
    layers = lora_layers(wrapped.peft_model)
    add_gates(wrapped.peft_model, {name: torch.randn(layer.r[ADAPTER]) for name, layer in layers.items()})
    with torch.no_grad():
        for layer in layers.values():
            torch.nn.init.normal_(layer.lora_B[ADAPTER].weight, std=0.1)
    return wrapped


def test_a_gated_layer_computes_its_formula(tiny: Any) -> None:
    wrapped = gated_model(tiny.model)
    for layer in lora_layers(wrapped.peft_model).values():
        x = torch.randn(5, layer.in_features)
        a, b, g = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight, layer.lora_A[ADAPTER].gate
        expected = layer.base_layer(x) + layer.scaling[ADAPTER] * (x @ a.T @ torch.diag(g) @ b.T)
        torch.testing.assert_close(layer(x), expected)
    wrapped.unwrap()


def test_the_factors_of_a_gated_model_are_a_plain_lora(tiny: Any) -> None:
    wrapped = gated_model(tiny.model)
    with torch.no_grad():
        expected = wrapped.peft_model(input_ids=IDS).logits
    factors = wrapped.factors()
    base = wrapped.unwrap()
    with added(base, factors, 2.0), torch.no_grad():
        torch.testing.assert_close(base(input_ids=IDS).logits, expected, atol=1e-5, rtol=1e-5)


def test_gates_are_trained_with_the_adapter_and_nothing_else_is(tiny: Any) -> None:
    wrapped = gated_model(tiny.model)
    wrapped.peft_model(input_ids=IDS, labels=IDS).loss.backward()
    trained = {name for name, value in wrapped.peft_model.named_parameters() if value.requires_grad}
    assert all("lora_" in name for name in trained)
    gates = gates_of(wrapped.peft_model)
    assert len(gates) == len(trained) // 3 == 14
    assert all(gate.grad is not None and bool(gate.grad.any()) for gate in gates.values())
    wrapped.unwrap()


def test_gates_that_do_not_fit_are_refused(tiny: Any) -> None:
    wrapped = wrap_lora(tiny.model, targets=("q_proj",), rank=2, alpha=2.0)
    names = list(lora_layers(wrapped.peft_model))
    with pytest.raises(TargetError, match="not those of the adapted layers"):
        add_gates(wrapped.peft_model, {names[0]: torch.ones(2)})
    with pytest.raises(TargetError, match="does not fit an adapter of rank 2"):
        add_gates(wrapped.peft_model, dict.fromkeys(names, torch.ones(3)))
    add_gates(wrapped.peft_model, dict.fromkeys(names, torch.ones(2)))
    with pytest.raises(TargetError, match="has a gate already"):
        add_gates(wrapped.peft_model, dict.fromkeys(names, torch.ones(2)))
    assert isinstance(lora_layers(wrapped.peft_model)[names[0]].lora_A[ADAPTER], GatedDown)
    wrapped.unwrap()
