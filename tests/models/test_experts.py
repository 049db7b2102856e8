"""Experts beside linear layers: the formula, the start, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from expert_models import TARGETS, TYPES, wrapped_with
from torch import nn

from keeps.errors import SettingsError, TargetError
from keeps.models.expert_gates import recorded_gates
from keeps.models.experts import ExpertLinear, ExpertsConfig, wrap_experts
from keeps.weights import fingerprint_tensors

IDS = torch.arange(20).reshape(2, 10)


@pytest.fixture
def bare(bare_llama: Callable[..., Any]) -> Any:
    return bare_llama()


@pytest.mark.parametrize("top_k", [None, 1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_computes_its_formula_expert_by_expert(bias: bool, top_k: int | None) -> None:
    torch.manual_seed(0)
    base = nn.Linear(8, 5, bias=bias)
    layer = ExpertLinear(base, ExpertsConfig(TYPES, rank=3, alpha=6.0, top_k=top_k))
    for parameter in (layer.A, layer.B, layer.router):
        nn.init.normal_(parameter)
    x = torch.randn(2, 7, 8)
    expected = base(x).clone()
    for place in [(row, column) for row in range(2) for column in range(7)]:
        token = x[place]
        logits = layer.router @ token
        chosen = range(4) if top_k is None else logits.topk(top_k).indices.tolist()
        total = sum(logits[i].exp() for i in chosen)
        for i in chosen:
            expected[place] += 2.0 * logits[i].exp() / total * (layer.B[i] @ (layer.A[i] @ token))
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


def test_at_the_start_nothing_changes_and_the_draw_is_kaiming_uniform(bare: Any) -> None:
    with torch.no_grad():
        before = bare(input_ids=IDS).logits
        wrapped = wrap_experts(bare, ExpertsConfig(TYPES, rank=3, alpha=6.0), TARGETS)
        assert torch.equal(bare(input_ids=IDS).logits, before)
    for name, layer in wrapped.layers.items():
        a, router = (wrapped.tensors()[f"{name}.{part}"] for part in ("A", "router"))
        one = nn.init.kaiming_uniform_(torch.empty(1000, layer.base_layer.in_features), a=5**0.5)
        for drawn in (a, router):
            assert float(drawn.abs().max()) <= float(one.abs().max()) * 1.001
            assert float(drawn.std()) == pytest.approx(float(one.std()), rel=0.2)
        assert not layer.B.any()


def test_only_the_experts_are_trained_and_unwrapping_gives_the_base_back(bare: Any) -> None:
    before, names = fingerprint_tensors(bare.state_dict()), [name for name, _ in bare.named_modules()]
    bare.lm_head.weight.requires_grad_(False)
    flags = {name: value.requires_grad for name, value in bare.named_parameters()}
    wrapped = wrapped_with(bare)
    trained = {name for name, value in bare.named_parameters() if value.requires_grad}
    assert len(trained) == 2 * 3 * 3
    assert all(name.rpartition(".")[2] in ("A", "B", "router") for name in trained)
    bare(input_ids=IDS, labels=IDS).loss.backward()
    assert all(bare.get_parameter(name).grad.abs().sum() > 0 for name in trained)
    assert wrapped.unwrap() is bare
    wrapped.unwrap()  # a second time does nothing
    assert fingerprint_tensors(bare.state_dict()) == before
    assert {name: value.requires_grad for name, value in bare.named_parameters()} == flags
    assert [name for name, _ in bare.named_modules()] == names


def test_the_gate_is_float32_where_the_model_is_not(bare: Any) -> None:
    bare.to(torch.bfloat16)
    wrapped = wrapped_with(bare)
    with recorded_gates(bare) as gates:
        logits = bare(input_ids=IDS).logits
    assert logits.dtype == torch.bfloat16
    assert all(gate.dtype == torch.float32 for gate in gates.by_layer.values())
    bare.float()
    with torch.autocast("cpu", dtype=torch.bfloat16), recorded_gates(bare) as cast:
        bare(input_ids=IDS)
    assert all(gate.dtype == torch.float32 for gate in cast.by_layer.values())
    wrapped.unwrap()


def test_dropout_acts_on_the_experts_alone_and_in_training_alone() -> None:
    layer = ExpertLinear(nn.Linear(8, 5), ExpertsConfig(TYPES, rank=3, alpha=6.0, dropout=0.5))
    layer.start()
    nn.init.normal_(layer.B)
    x = torch.randn(4, 8)
    assert torch.equal(layer.eval()(x), layer(x))
    layer.train()
    assert torch.equal(layer.gate(x), layer.gate(x))
    assert not torch.equal(layer(x), layer(x))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"types": (0,)}, "no choice"),
        ({"types": (1, 1)}, "no expert is of type 0"),
        ({"types": (0, 2)}, "no expert is of type 1"),
        ({"types": (0, -1)}, "-1 is no type"),
        ({"rank": 0}, "out of range"),
        ({"alpha": 0.0}, "out of range"),
        ({"dropout": 1.0}, "out of range"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": 5}, "top_k is 5 of 4"),
    ],
)
def test_experts_that_make_no_sense_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        ExpertsConfig(**{"types": TYPES, "rank": 3, "alpha": 6.0, **values})


def test_layers_that_do_not_fit_are_refused_and_nothing_is_wrapped(bare: Any) -> None:
    config = ExpertsConfig(TYPES, rank=30, alpha=6.0)
    with pytest.raises(TargetError, match="rank 30 does not fit"):
        wrap_experts(bare, config, TARGETS)
    with pytest.raises(TargetError, match="no layer matches"):
        wrap_experts(bare, config, ("gateproj",))
    assert all(value.requires_grad for value in bare.parameters())
    wrapped = wrapped_with(bare)
    with pytest.raises(TargetError, match="carries an adapter"):
        wrapped_with(bare)
    wrapped.unwrap()
    with pytest.raises(TargetError, match="has no experts"), recorded_gates(bare):
        pass
