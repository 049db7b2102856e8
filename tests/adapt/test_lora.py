"""Plain LoRA: the contract, a start that changes nothing, and what lies on disk."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from keeps.adapt.lora import LoRA
from keeps.errors import SettingsError, TargetError
from keeps.models.adapters import lora_layers
from keeps.training.adapter import AdapterSettings, wrap


def test_it_learns(contract: Any) -> None:
    contract.check_learns("lora", rank=8)


def test_it_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_seeds("lora", rank=2, dropout=0.1)


@pytest.mark.parametrize("stabilised", [False, True])
def test_its_folder_loads_in_plain_peft(contract: Any, stabilised: bool) -> None:
    contract.check_folder("lora", rank=2, alpha=8.0, rank_stabilised=stabilised, rank_pattern={"q_proj": 5})


def test_refused_data_leaves_the_model_alone(contract: Any) -> None:
    contract.check_refused_data_leaves_the_model_alone("lora", rank=2)


def test_only_the_chosen_layers_are_trained_at_their_rank(contract: Any) -> None:
    change, run = contract.run("lora", rank=2, targets="q_proj,mlp.down_proj", rank_pattern="layers.1.mlp.down_proj=4")
    ranks = {name: a.shape[0] for name, (a, _) in change.factors().items()}
    assert ranks == {
        "model.layers.0.self_attn.q_proj": 2,
        "model.layers.0.mlp.down_proj": 2,
        "model.layers.1.self_attn.q_proj": 2,
        "model.layers.1.mlp.down_proj": 4,
    }
    # rank * (in + out) of each: 2 * (32 + 32) twice, (2 + 4) * (64 + 32)
    assert run.measures["trained_parameters"] == 2 * 2 * 64 + 6 * 96
    assert run.measures["reduced_base"] is False
    assert json.loads((change.folder / "adapter_config.json").read_text())["r"] == 2


def test_at_the_start_nothing_is_changed(contract: Any) -> None:
    ids = torch.arange(2, 30)[None]
    with torch.no_grad():
        before = contract.model.model(ids).logits
        wrapped = wrap(contract.model, AdapterSettings(rank=4), seed=0)
        assert torch.equal(wrapped.peft_model(ids).logits, before)
        assert all(not layer.lora_B["default"].weight.any() for layer in lora_layers(wrapped.peft_model).values())
    wrapped.unwrap()


@pytest.mark.parametrize(
    ("values", "scaling"),
    [
        ({"rank": 4}, 1.0),
        ({"rank": 4, "alpha": 8}, 2.0),
        ({"rank": 4, "alpha": 8, "rank_stabilised": True}, 4.0),
        ({"rank": 16, "rank_stabilised": True}, 4.0),
    ],
)
def test_scaling_is_alpha_over_rank_or_its_root(values: dict[str, Any], scaling: float) -> None:
    assert AdapterSettings(**values).scaling == scaling


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"rank": 0}, SettingsError),
        ({"alpha": 0}, SettingsError),
        ({"dropout": 1}, SettingsError),
        ({"rank": 33}, TargetError),
        ({"targets": ("qproj",)}, TargetError),
        ({"rank_pattern": {"q_proj": 0}}, TargetError),
    ],
)
def test_bad_settings_are_refused(contract: Any, values: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        contract.run("lora", **values)


def test_its_settings_are_those_of_every_adapter() -> None:
    assert LoRA.Settings is AdapterSettings
