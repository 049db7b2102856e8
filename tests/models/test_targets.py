"""Naming layers: what a target matches, and what is said where it matches nothing or a rank does not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from keeps.errors import TargetError
from keeps.models.adapters import wrap_lora
from keeps.models.targets import check_dense, find_targets, layer_ranks

KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize("tied", [True, False])
def test_all_linear_is_every_linear_layer_but_the_vocabulary_projection(
    bare_llama: Callable[..., Any], tied: bool
) -> None:
    model = bare_llama(tie_word_embeddings=tied)
    found = find_targets(model)
    assert [name.rsplit(".", 1)[-1] for name in found] == [*KINDS, *KINDS]
    assert "lm_head" not in found
    assert all(found[name] is model.get_submodule(name) for name in found)


def test_the_vocabulary_projection_cannot_be_named_as_a_target(bare_llama: Callable[..., Any]) -> None:
    with pytest.raises(TargetError, match='no layer matches the target "lm_head"'):
        find_targets(bare_llama(), ("lm_head",))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("q_proj",), ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]),
        (("mlp.down_proj",), ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]),
        (("layers.1.mlp.up_proj",), ["model.layers.1.mlp.up_proj"]),
        (("model.layers.0.self_attn.k_proj",), ["model.layers.0.self_attn.k_proj"]),
        # in the model's order and each once, whatever the order and overlap of the targets
        (
            ("layers.1.self_attn.v_proj", "layers.0.mlp.up_proj", "v_proj"),
            ["model.layers.0.self_attn.v_proj", "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.v_proj"],
        ),
    ],
)
def test_a_target_is_the_end_of_a_name(
    bare_llama: Callable[..., Any], targets: tuple[str, ...], expected: list[str]
) -> None:
    assert list(find_targets(bare_llama(), targets)) == expected


@pytest.mark.parametrize("target", ["proj", "_proj", "layers.0", "self_attn", "1.mlp.up_projection", ""])
def test_a_target_matches_whole_parts_of_a_name_only(bare_llama: Callable[..., Any], target: str) -> None:
    with pytest.raises(TargetError, match="no layer matches"):
        find_targets(bare_llama(), (target,))


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("qproj", 'did you mean "q_proj"'),
        ("all_linear", 'did you mean "all-linear"'),
        ("mlp.downproj", 'did you mean "mlp.down_proj"'),
        ("layers.1.mlp.up_prj", '"layers.1.mlp.up_proj"'),
        ("zzz", "this model has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"),
    ],
)
def test_an_unknown_target_is_answered_with_the_nearest_names(
    bare_llama: Callable[..., Any], target: str, hint: str
) -> None:
    with pytest.raises(TargetError) as caught:
        find_targets(bare_llama(), ("q_proj", target))
    assert hint in str(caught.value)


def test_no_target_and_a_model_without_linear_layers_are_refused(bare_llama: Callable[..., Any]) -> None:
    with pytest.raises(TargetError, match="no target layer is named"):
        find_targets(bare_llama(), ())
    with pytest.raises(TargetError, match="no linear layer"):
        find_targets(nn.Embedding(3, 2))


def test_a_model_of_transposed_weights_is_refused_with_the_reason() -> None:
    from transformers.pytorch_utils import Conv1D

    with pytest.raises(TargetError, match="transposed"):
        find_targets(nn.Sequential(Conv1D(6, 4)))


def test_a_model_that_carries_an_adapter_is_refused(bare_llama: Callable[..., Any]) -> None:
    model = bare_llama()
    wrapped = wrap_lora(model, targets=("q_proj",), rank=2, alpha=2.0)
    for carrier in (model, wrapped.peft_model):
        with pytest.raises(TargetError, match="carries an adapter"):
            find_targets(carrier)
    assert len(find_targets(wrapped.unwrap())) == 2 * len(KINDS)


def test_rank_pattern_gives_single_layers_their_own_rank(bare_llama: Callable[..., Any]) -> None:
    layers = find_targets(bare_llama(), ("q_proj", "up_proj"))
    ranks = layer_ranks(layers, 2, {"q_proj": 3, "layers.1.self_attn.q_proj": 5})
    assert ranks == {
        "model.layers.0.self_attn.q_proj": 3,
        "model.layers.0.mlp.up_proj": 2,
        "model.layers.1.self_attn.q_proj": 5,
        "model.layers.1.mlp.up_proj": 2,
    }


@pytest.mark.parametrize("rank", [-1, 0, 13])
def test_a_rank_that_does_not_fit_a_layer_is_refused_with_the_layer_and_the_limit(
    bare_llama: Callable[..., Any], rank: int
) -> None:
    layers = find_targets(bare_llama(), ("k_proj",))  # 12 x 24
    with pytest.raises(TargetError) as caught:
        layer_ranks(layers, rank, {})
    message = str(caught.value)
    assert f"rank {rank} does not fit a layer of 12 x 24 (model.layers.0.self_attn.k_proj)" in message
    assert "from 1 to 12" in message
    assert layer_ranks(layers, rank, {"k_proj": 12}) == dict.fromkeys(layers, 12), "the pattern decides"


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [("q_prj", '"q_proj"'), ("layers.7.self_attn.q_proj", '"layers.1.self_attn.q_proj"'), ("up_proj", '"q_proj"')],
)
def test_a_rank_pattern_that_matches_no_target_is_refused_with_the_nearest_names(
    bare_llama: Callable[..., Any], pattern: str, hint: str
) -> None:
    layers = find_targets(bare_llama(), ("q_proj",))
    with pytest.raises(TargetError) as caught:
        layer_ranks(layers, 2, {pattern: 1})
    assert f'rank_pattern names "{pattern}", which matches no target layer' in str(caught.value)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    "weight", [torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(6), torch.zeros(2, 3, device="meta")]
)
def test_weights_that_are_no_plain_matrix_are_refused(weight: torch.Tensor) -> None:
    layer = nn.Linear(3, 2)
    check_dense({"a": layer, "b": layer})
    layer.weight = nn.Parameter(weight, requires_grad=False)
    with pytest.raises(TargetError, match=r"quantised or not loaded .* \(mlp\.up_proj\)"):
        check_dense({"mlp.up_proj": layer})
