"""Feed-forward layers in pieces: exact when all are active, alike in both ways, refused without a trace."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fine_tune_folders import same_bits, state_of
from pico_models import MAKERS, pico
from torch import nn

from keeps.errors import SettingsError, TargetError
from keeps.models import LanguageModel
from keeps.models.factored_layers import (
    FactorConfig,
    FactoredFeedForward,
    WrappedFactored,
    factored_layers,
    layer_names,
    put_factored,
)
from keeps.models.feed_forward import feed_forwards
from keeps.models.logits import check_logits, largest_difference
from keeps.numerics.factoring import random_order


def cut(model: LanguageModel, config: FactorConfig, *, order: bool = False, **options: Any) -> WrappedFactored:
    """Routers drawn from a seed; channels as they are, or in a random order."""
    names = layer_names(model.model)
    channels = {name: part.padded(config.experts, True).channels for name, part in feed_forwards(model.model).items()}
    orders = {name: random_order(channels[name], 7) if order else None for name in names}
    wrapped = put_factored(model.model, config, orders, **{"own": False, **options})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for layer in wrapped.layers.values():
            layer.start()
    return wrapped


@pytest.mark.parametrize("kind", MAKERS)
def test_with_all_pieces_active_every_architecture_is_the_dense_one_and_with_fewer_it_is_not(
    kind: str, tokenizer: Any
) -> None:
    """Gated or not, transposed, with biases; in order and not, padded and not, own weights and views."""
    model = pico(kind, tokenizer)
    state, flags = state_of(model), [p.requires_grad for p in model.model.parameters()]
    dense = check_logits(model.model, tokenizer)
    scale = max(float(row.abs().max()) for row in dense)
    uneven = 5  # neither 48 nor 32 channels are fives
    for own, order, experts in ((True, True, 4), (False, True, uneven), (False, False, 4), (True, False, uneven)):
        for active in (experts, experts - 1):
            wrapped = cut(model, FactorConfig(experts, active, scale="n_over_k"), order=order, own=own, pad=True)
            apart = largest_difference(check_logits(model.model, tokenizer), dense)
            wrapped.unwrap()
            wrapped.unwrap()
            assert (apart < 1e-5 * scale) if active == experts else (apart > 1e-3 * scale)
    assert same_bits(model, state)
    assert [p.requires_grad for p in model.model.parameters()] == flags
    assert largest_difference(check_logits(model.model, tokenizer), dense) == 0


@pytest.mark.parametrize("gates", ["hard", "straight_through", "probability"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_dispatching_gives_what_masking_gives(kind: str, gates: str, tokenizer: Any) -> None:
    """A whole layer on many tokens, on one, and on few, against the products written out."""
    model = pico(kind, tokenizer)
    wrapped = cut(model, FactorConfig(4, 2, gates, "n_over_k"), order=True)
    layer = next(iter(wrapped.layers.values()))
    x = torch.randn(3, 40, layer.parts.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        many, few = layer(x), layer(x[:1, :5])
        one = torch.cat([layer(x[:1, place : place + 1]) for place in range(5)], 1)
        layer.train()
        masked = layer(x)
        layer.eval()
        by_hand = written_out(layer, x.flatten(0, 1), gates).view_as(x)
    wrapped.unwrap()
    for found, wanted in ((many, masked), (many, by_hand), (few, many[:1, :5]), (one, few)):
        assert torch.allclose(found, wanted, atol=1e-5)
    assert float((many - layer.base_layer(x)).abs().max()) > 1e-3


def written_out(layer: FactoredFeedForward, x: torch.Tensor, gates: str) -> torch.Tensor:
    """s sum_j w_j F_j(x) + b_d, a loop over tokens, with the base's own parameters."""
    parts, order = layer.parts, layer.order
    assert order is not None
    blocks = order.view(layer.config.experts, -1)
    rows = []
    for token in x:
        g = (layer.router @ token + layer.router_bias).softmax(0)
        chosen = g.topk(layer.config.active).indices
        total = torch.zeros_like(token) if parts.down_bias is None else parts.down_bias.clone()
        for number in chosen:
            block = blocks[number]
            up = parts.up[block] @ token + (0 if parts.up_bias is None else parts.up_bias[block])
            inner = parts.activation(up)
            if parts.gate_ref is not None:
                inner = parts.activation(parts.gate_ref.matrix[block] @ token) * up
            weight = layer.config.active * g[number] / g[chosen].sum() if gates == "probability" else 1.0
            total += layer.config.experts / layer.config.active * weight * (parts.down_ref.matrix[:, block] @ inner)
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize("gates", ["hard", "straight_through", "probability"])
def test_with_all_pieces_active_training_sees_the_dense_layer_too(gates: str, tokenizer: Any) -> None:
    wrapped = cut(pico("llama", tokenizer), FactorConfig(4, 4, gates))
    layer = next(iter(wrapped.layers.values()))
    x = torch.randn(3, 7, layer.parts.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        used = layer(x)
        layer.recording = True
        torch.testing.assert_close(layer(x), used, atol=1e-5, rtol=1e-4)


def test_untrained_pieces_in_their_own_order_are_the_base_s_memory(tiny_llama: LanguageModel) -> None:
    wrapped = cut(tiny_llama, FactorConfig(4, 2))
    for layer in wrapped.layers.values():
        for name, ref in (("gate", layer.parts.gate_ref), ("up", layer.parts.up_ref), ("down", layer.parts.down_ref)):
            assert ref is not None
            assert layer.pieces()[name].data_ptr() == ref.weight.data_ptr()
        assert [name for name, _ in layer.named_parameters(recurse=False)] == ["router", "router_bias"]
    wrapped.unwrap()


def test_the_labels_choose_where_they_are_asked_to(tiny_llama: LanguageModel) -> None:
    """With the labels a layer comes closer to the dense one than with a router that was drawn."""
    wrapped = cut(tiny_llama, FactorConfig(4, 3))
    layer = next(iter(wrapped.layers.values()))
    x = torch.randn(1, 60, layer.parts.width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        dense = layer.base_layer(x)
        apart = {}
        for routing in ("router", "prior", "dense"):
            layer.routing = routing
            apart[routing] = float((layer(x) - dense).square().mean())
    wrapped.unwrap()
    assert apart["dense"] < 1e-10 < apart["prior"] < apart["router"]


@pytest.mark.parametrize(("experts", "active"), [(1, 1), (4, 5), (4, 0)])
def test_numbers_that_leave_no_choice_are_refused(experts: int, active: int) -> None:
    with pytest.raises(SettingsError):
        FactorConfig(experts, active)


def test_what_is_not_understood_is_refused_and_the_model_stays_as_it_is(tokenizer: Any) -> None:
    model = pico("llama", tokenizer)
    state = state_of(model)
    config = FactorConfig(5, 2)
    names = layer_names(model.model)
    with pytest.raises(TargetError, match="equal blocks"):
        put_factored(model.model, config, dict.fromkeys(names), own=False)
    with pytest.raises(TargetError, match="no feed-forward layer"):
        put_factored(model.model, config, {"model.nonsense": None}, own=False, pad=True)
    with pytest.raises(TargetError, match="no layer 3"):
        layer_names(model.model, [0, 3])
    with pytest.raises(TargetError, match="in pieces"):
        factored_layers(model.model)
    wrapped = cut(model, FactorConfig(4, 2))
    with pytest.raises(TargetError, match="adapter"):
        layer_names(model.model)
    wrapped.unwrap()
    module: Any = model.model
    block = module.model.layers[1]
    forward = type(block.mlp).forward
    block.mlp.forward = lambda x: 2 * forward(block.mlp, x)
    with pytest.raises(TargetError, match="not understood"):
        layer_names(model.model)
    del block.mlp.forward
    fused = SimpleNamespace(gate=block.mlp.gate_proj, up=block.mlp.up_proj)
    block.mlp.gate_up_proj = nn.Linear(32, 96, bias=False)
    del block.mlp.gate_proj, block.mlp.up_proj
    with pytest.raises(TargetError, match="not fused"):
        layer_names(model.model)
    del block.mlp.gate_up_proj
    block.mlp.gate_proj, block.mlp.up_proj = fused.gate, fused.up
    assert same_bits(model, state)


@pytest.mark.slow
@pytest.mark.parametrize("order", [False, True])
def test_with_all_pieces_active_the_default_model_is_the_dense_one(order: bool, smollm2: LanguageModel) -> None:
    dense = check_logits(smollm2.model, smollm2.tokenizer)
    wrapped = cut(smollm2, FactorConfig(4, 4), order=order)
    apart = largest_difference(check_logits(smollm2.model, smollm2.tokenizer), dense)
    wrapped.unwrap()
    assert apart < 1e-3
