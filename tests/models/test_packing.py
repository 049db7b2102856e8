"""Packed rows: hidden states and gradients of padded ones, for every model that honours it and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from keeps.models import packing
from keeps.models.packing import Packing, can_pack, packed_states, worth_packing
from keeps.models.projection import hidden_states

LENGTHS = (9, 4, 7, 1)


def padded(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 61, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return ids * mask, mask


def gradients(model: Any, states: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def check_same(model: Any, lengths: tuple[int, ...] = LENGTHS) -> None:
    ids, mask = padded(lengths)
    expected = hidden_states(model, ids, mask)[mask.bool()]
    wanted = gradients(model, expected)
    found = packed_states(model, ids, mask)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients(model, found).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("short", [128, 0])  # 0: the fused kernel for every length
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("shared", [1, 2, 4])
def test_packed_rows_give_the_states_and_gradients_of_padded_ones(
    bare_llama: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, short: int, attention: str, shared: int
) -> None:
    monkeypatch.setattr(packing, "SHORT", short)
    model = bare_llama(num_key_value_heads=shared)
    model.set_attn_implementation(attention)
    assert can_pack(model)
    check_same(model)
    assert model.config._attn_implementation == attention, "the model has its own attention back"


@pytest.mark.parametrize("short", [128, 0])
def test_packed_rows_can_be_computed_in_bfloat16(
    bare_llama: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, short: int
) -> None:
    monkeypatch.setattr(packing, "SHORT", short)
    model = bare_llama(num_key_value_heads=2)
    ids, mask = padded()
    assert can_pack(model)
    exact = packed_states(model, ids, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = packed_states(model, ids, mask)
    assert torch.isfinite(rounded).all()
    assert 0 < float((rounded - exact).norm() / exact.norm()) < 0.05


@pytest.mark.parametrize("short", [128, 0])
def test_a_sliding_window_is_honoured(monkeypatch: pytest.MonkeyPatch, short: int) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    monkeypatch.setattr(packing, "SHORT", short)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
    config = MistralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, sliding_window=3, head_dim=6)
    model = MistralForCausalLM(config).eval()
    assert can_pack(model)
    check_same(model, (12, 5))


def test_learned_positions_start_anew_in_every_row() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model: Any = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=24, n_layer=2, n_head=4, n_positions=32)).eval()
    assert can_pack(model)
    check_same(model)


def test_models_that_mix_tokens_in_other_ways_are_not_packed(bare_llama: Callable[..., Any]) -> None:
    """A convolution over time sees the row before; softcapped scores and recomputed activations are refused."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    mixing = bare_llama()

    def shift(module: Any, inputs: Any, output: Tensor) -> Tensor:
        del module, inputs
        return output + 0.5 * output.roll(1, dims=1)

    mixing.model.layers[0].mlp.register_forward_hook(shift)
    sizes: dict[str, Any] = {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
    capped = Gemma2ForCausalLM(
        Gemma2Config(**sizes, num_attention_heads=4, num_key_value_heads=2, head_dim=6, final_logit_softcapping=None)
    ).eval()
    again = bare_llama()
    again.gradient_checkpointing_enable()
    for model in (mixing, capped, again):
        before = model.config._attn_implementation
        assert not can_pack(model)
        assert model.config._attn_implementation == before


def test_the_test_of_a_model_draws_nothing_and_runs_once(
    bare_llama: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bare_llama(attention_dropout=0.5).train()
    state = torch.get_rng_state()
    assert can_pack(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    monkeypatch.setattr(packing, "_agrees", lambda _: pytest.fail("tested twice"))
    assert can_pack(model)


def test_attention_dropout_acts(bare_llama: Callable[..., Any]) -> None:
    model = bare_llama(attention_dropout=0.5).train()
    ids, mask = padded()
    first, second = packed_states(model, ids, mask), packed_states(model, ids, mask)
    assert not torch.allclose(first, second)


def test_spreading_and_gathering_are_inverse() -> None:
    _, mask = padded()
    rows = Packing.of(mask)
    values = torch.randn(3, sum(LENGTHS), 5)
    wide = rows.spread(values)
    assert wide.shape == (3, len(LENGTHS), max(LENGTHS), 5)
    assert (wide[:, mask == 0] == 0).all()
    torch.testing.assert_close(rows.gathered(wide), values)
    assert rows.packed(mask).tolist() == [1] * sum(LENGTHS)


def test_a_batch_without_padding_is_not_worth_packing() -> None:
    assert worth_packing(padded()[1])
    assert not worth_packing(torch.ones(2, 5))
