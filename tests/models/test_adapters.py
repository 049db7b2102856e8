"""Wrapping a model and unwrapping it, and the arithmetic between the forms of an adapter."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from keeps.adapt.corda import init_adapter
from keeps.errors import TargetError
from keeps.models.adapter_files import read_config, read_factors, scaling_of, write_adapter, write_halved
from keeps.models.adapters import ADAPTER, WrappedModel, added, doubled, halved, lora_layers, wrap_lora
from keeps.models.covariances import collect_covariance, token_batches
from keeps.models.targets import find_targets
from keeps.numerics.covariance import Covariance

IDS = torch.arange(40).reshape(4, 10)
PATTERN = {"q_proj": 3, "layers.1.mlp.down_proj": 5}
STARTS = [  # mode, rank_stabilised, alpha, rank_pattern
    ("kpm", False, None, {}),
    ("ipm", False, 8.0, {}),
    ("kpm", True, 3.0, PATTERN),
    ("ipm", False, 1.0, PATTERN),
]


def covariances_of(model: Any) -> dict[str, Covariance]:
    generator = torch.Generator().manual_seed(0)
    samples = [torch.randint(0, 61, (12,), generator=generator).tolist() for _ in range(20)]
    return collect_covariance(model, token_batches(samples, pad_token_id=0))


def state_of(model: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(model: Any, state: dict[str, Tensor]) -> None:
    now = model.state_dict()
    assert now.keys() == state.keys()
    assert [name for name in state if not torch.equal(now[name], state[name])] == []


def started(model: Any, mode: str, stabilised: bool, alpha: float | None, pattern: dict[str, int]) -> WrappedModel:
    return init_adapter(
        model,
        r=2,
        alpha=alpha,
        mode=mode,
        covariance=covariances_of(model),
        rank_pattern=pattern,
        rank_stabilised=stabilised,
    )


def disturb(wrapped: WrappedModel) -> None:
    """A random change of A and B that stands for training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in lora_layers(wrapped.peft_model).values():
            for part in (layer.lora_A, layer.lora_B):
                weight = part[ADAPTER].weight
                weight += 0.3 * weight.abs().mean() * torch.randn(weight.shape, generator=generator)


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(IDS).logits


@pytest.mark.parametrize(("mode", "stabilised", "alpha", "pattern"), STARTS)
def test_step_zero_equals_the_base_to_rounding_and_unwrapping_restores_it_bit_by_bit(
    bare_llama: Callable[..., Any], mode: str, stabilised: bool, alpha: float | None, pattern: dict[str, int]
) -> None:
    model = bare_llama()
    before, state = logits(model), state_of(model)
    wrapped = started(model, mode, stabilised, alpha, pattern)
    torch.testing.assert_close(logits(wrapped.peft_model), before, rtol=0, atol=1e-4)
    for name, layer in lora_layers(wrapped.peft_model).items():
        assert not torch.equal(layer.base_layer.weight, state[f"{name}.weight"]), "the base is the residual now"
        a, b = wrapped.start[name]
        whole = layer.base_layer.weight.double() + wrapped.scaling[name] * b.double() @ a.double()
        error = (whole - state[f"{name}.weight"]).abs().max() / state[f"{name}.weight"].abs().max()
        assert error < 1e-6, name
    disturb(wrapped)
    assert (logits(wrapped.peft_model) - before).abs().max() > 1e-2
    assert wrapped.unwrap() is model
    assert_same(model, state)
    assert wrapped.unwrap() is model, "a second time changes nothing"
    assert_same(model, state)


def test_unwrapping_gives_back_which_parameters_were_trainable(bare_llama: Callable[..., Any]) -> None:
    model = bare_llama()
    model.model.norm.weight.requires_grad_(False)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    wrapped = wrap_lora(model, targets=("q_proj",), rank=2, alpha=2.0)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 4
    assert all(".lora_" in name for name in trained)
    wrapped.unwrap()
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert not hasattr(model, "peft_config"), "peft would warn of a second adapter"


@pytest.mark.parametrize("stabilised", [False, True])
def test_rank_pattern_gives_these_ranks_in_peft_with_one_scaling_for_all(
    bare_llama: Callable[..., Any], stabilised: bool
) -> None:
    wrapped = wrap_lora(
        bare_llama(), targets=("all-linear",), rank=2, alpha=6.0, rank_stabilised=stabilised, rank_pattern=PATTERN
    )
    scale = 6 / math.sqrt(2) if stabilised else 3.0
    for name, layer in lora_layers(wrapped.peft_model).items():
        rank = 5 if name.endswith("1.mlp.down_proj") else 3 if name.endswith("q_proj") else 2
        assert layer.r[ADAPTER] == rank
        assert tuple(layer.lora_A[ADAPTER].weight.shape) == (rank, layer.in_features)
        assert tuple(layer.lora_B[ADAPTER].weight.shape) == (layer.out_features, rank)
        assert layer.scaling[ADAPTER] == pytest.approx(scale)
        assert wrapped.scaling[name] == scale


def test_plain_lora_equals_the_base_exactly_and_draws_from_the_seed(bare_llama: Callable[..., Any]) -> None:
    model = bare_llama()
    before = logits(model)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        wrapped = wrap_lora(model, targets=("q_proj",), rank=2, alpha=2.0)
        assert torch.equal(logits(wrapped.peft_model), before)
        assert wrapped.start == {}
        drawn.append(next(iter(wrapped.factors().values()))[0])
        wrapped.unwrap()
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_refused_rank_leaves_the_model_unwrapped(bare_llama: Callable[..., Any]) -> None:
    model = bare_llama()
    with pytest.raises(TargetError, match="rank 13 does not fit"):
        wrap_lora(model, targets=("k_proj",), rank=13, alpha=2.0)
    with pytest.raises(TargetError, match="carries no LoRA layer"):
        lora_layers(model)


def test_factors_are_copies(bare_llama: Callable[..., Any]) -> None:
    wrapped = started(bare_llama(), *STARTS[0])
    kept = wrapped.factors()
    before = {name: (a.clone(), b.clone()) for name, (a, b) in kept.items()}
    disturb(wrapped)
    for name, (a, b) in kept.items():
        assert torch.equal(a, before[name][0])
        assert torch.equal(b, before[name][1])
        assert torch.equal(a, wrapped.start[name][0]), "so is the start"


@pytest.mark.parametrize(("mode", "stabilised", "alpha", "pattern"), STARTS)
def test_the_doubled_adapter_on_the_untouched_base_equals_the_trained_model_in_plain_peft(
    bare_llama: Callable[..., Any],
    tmp_path: Path,
    mode: str,
    stabilised: bool,
    alpha: float | None,
    pattern: dict[str, int],
) -> None:
    from peft import PeftModel

    wrapped = started(bare_llama(), mode, stabilised, alpha, pattern)
    disturb(wrapped)
    trained = logits(wrapped.peft_model)
    factors = doubled(wrapped.factors(), wrapped.start)
    write_adapter(tmp_path, wrapped.peft_model, factors, multiple=2, base="somewhere")
    loaded = PeftModel.from_pretrained(bare_llama(), str(tmp_path)).eval()
    torch.testing.assert_close(logits(loaded), trained, rtol=0, atol=1e-4)
    for name, layer in lora_layers(loaded).items():
        assert layer.r[ADAPTER] == 2 * wrapped.start[name][0].shape[0]
        assert layer.scaling[ADAPTER] == pytest.approx(wrapped.scaling[name]), "s is unchanged"
    config = read_config(tmp_path)
    assert config["init_lora_weights"] is True, "loading must not decompose again"
    assert config["base_model_name_or_path"] == "somewhere"
    assert scaling_of(config) == pytest.approx(next(iter(wrapped.scaling.values())))


@pytest.mark.parametrize("stabilised", [False, True])
def test_the_halved_adapter_on_the_reduced_base_equals_the_trained_model_in_plain_peft(
    bare_llama: Callable[..., Any], tmp_path: Path, stabilised: bool
) -> None:
    from peft import PeftModel

    wrapped = started(bare_llama(), "kpm", stabilised, 3.0, PATTERN)
    disturb(wrapped)
    trained = logits(wrapped.peft_model)
    (tmp_path / "doubled").mkdir()
    (tmp_path / "halved").mkdir()
    factors = doubled(wrapped.factors(), wrapped.start)
    write_adapter(tmp_path / "doubled", wrapped.peft_model, factors, multiple=2, base="")
    again, start = halved(read_factors(tmp_path / "doubled"))
    write_halved(tmp_path / "halved", read_config(tmp_path / "doubled"), again, base="base")
    base = bare_llama()
    with added(base, start, -next(iter(wrapped.scaling.values()))):
        loaded = PeftModel.from_pretrained(base, str(tmp_path / "halved")).eval()
        torch.testing.assert_close(logits(loaded), trained, rtol=0, atol=1e-5)
        assert {layer.r[ADAPTER] for layer in lora_layers(loaded).values()} == {2, 3, 5}
        loaded.unload()


def test_halving_inverts_doubling(bare_llama: Callable[..., Any]) -> None:
    wrapped = started(bare_llama(), "kpm", False, None, PATTERN)
    start = {name: (a.clone(), b.clone()) for name, (a, b) in wrapped.start.items()}
    disturb(wrapped)
    trained = wrapped.factors()
    both = doubled(trained, start)
    for found, expected in zip(halved(both), (trained, start), strict=True):
        assert found.keys() == expected.keys()
        for name in expected:
            assert torch.equal(found[name][0], expected[name][0])
            assert torch.equal(found[name][1], expected[name][1])
    for name, (a, b) in both.items():
        (a1, b1), (a0, b0) = trained[name], start[name]
        torch.testing.assert_close(b @ a, b1 @ a1 - b0 @ a0, rtol=1e-4, atol=1e-5)
    assert doubled(trained, {}) == trained, "a start of zero doubles nothing"


def test_added_weights_are_restored_bit_by_bit_even_after_an_exception(bare_llama: Callable[..., Any]) -> None:
    model = bare_llama()
    state = state_of(model)
    name = next(iter(find_targets(model)))
    a, b = torch.randn(2, 24), torch.randn(24, 2)
    with added(model, {name: (a, b)}, 0.5):
        torch.testing.assert_close(model.get_submodule(name).weight, state[f"{name}.weight"] + 0.5 * b @ a)
    assert_same(model, state)
    with pytest.raises(KeyboardInterrupt), added(model, {name: (a, b)}, 0.5):
        raise KeyboardInterrupt
    assert_same(model, state)
    other = "model.layers.1.mlp.up_proj"  # of another shape: fails after the first weight was edited
    with pytest.raises(RuntimeError), added(model, {name: (a, b), other: (a, b)}, 0.5):
        pytest.fail("not reached")
    assert_same(model, state)


def test_an_adapter_in_half_precision_keeps_its_factors_in_float32(bare_llama: Callable[..., Any]) -> None:
    model = bare_llama()
    covariances = covariances_of(model)
    model.to(torch.bfloat16)
    before, state = logits(model).float(), state_of(model)
    wrapped = init_adapter(model, r=2, mode="kpm", covariance=covariances)
    assert {a.dtype for a, _ in wrapped.start.values()} == {torch.float32}
    difference = (logits(wrapped.peft_model).float() - before).abs().max()
    assert difference < 0.05 * before.abs().max(), float(difference)
    wrapped.unwrap()
    assert_same(model, state)
