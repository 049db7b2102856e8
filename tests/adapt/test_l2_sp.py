"""L2-SP: the contract with an adapter and whole, the penalty against its plain formula, and that it pulls."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from keeps.adapt.l2_sp import L2SPSettings, adapter_distance, weight_distance
from keeps.errors import SettingsError, TargetError
from keeps.models.adapters import lora_layers
from keeps.training.adapter import AdapterSettings, wrap
from keeps.weights import load_tensors


def test_it_learns(contract: Any) -> None:
    contract.check_learns("l2_sp", rank=8, decay=1e-4)


def test_it_learns_whole(contract: Any) -> None:
    contract.check_learns("l2_sp", parameters="full", decay=1e-4, learning_rate=2e-3)


def test_it_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_seeds("l2_sp", rank=2)


def test_its_folder_loads_in_plain_peft(contract: Any) -> None:
    contract.check_folder("l2_sp", rank=2, alpha=8.0, decay=1e-3, rank_pattern={"q_proj": 5})


def test_its_checkpoint_loads_in_plain_transformers(contract: Any) -> None:
    contract.check_folder("l2_sp", parameters="full", decay=1e-3)


@pytest.mark.parametrize("settings", [{"rank": 2}, {"parameters": "full"}])
def test_refused_data_leaves_the_model_alone(contract: Any, settings: dict[str, Any]) -> None:
    contract.check_refused_data_leaves_the_model_alone("l2_sp", **settings)


def test_the_penalty_of_an_adapter_is_that_of_the_weights_it_adds(contract: Any) -> None:
    settings = AdapterSettings(rank=3, alpha=12.0, rank_pattern={"q_proj": 5})
    wrapped = wrap(contract.model, settings, seed=0)
    try:
        assert float(adapter_distance(wrapped.peft_model, settings.scaling).detach()) == 0
        expected = 0.0
        for layer in lora_layers(wrapped.peft_model).values():
            torch.nn.init.normal_(layer.lora_B["default"].weight)
            expected += float(layer.get_delta_weight("default").double().square().sum())  # peft's own product
        distance = adapter_distance(wrapped.peft_model, settings.scaling)
        assert float(distance.detach()) == pytest.approx(expected, rel=1e-5)
        assert distance.requires_grad
    finally:
        wrapped.unwrap()


def test_the_penalty_of_weights_is_their_squared_distance() -> None:
    module = torch.nn.Linear(3, 2)
    originals = {name: value.detach().clone() for name, value in module.named_parameters()}
    assert float(weight_distance(module, originals).detach()) == 0
    with torch.no_grad():
        module.weight += 2.0
        module.bias.sub_(1.0)
    assert float(weight_distance(module, originals).detach()) == pytest.approx(6 * 4 + 2)


def added_norm(change: Any) -> float:
    return sum(float((b @ a).square().sum()) for a, b in change.factors().values())


def test_the_stronger_the_decay_the_nearer_to_the_start(contract: Any) -> None:
    norms = [added_norm(contract.run("l2_sp", rank=4, epochs=4, decay=decay)[0]) for decay in (1e-6, 1.0, 10.0)]
    assert norms[0] > 1.5 * norms[1] > 2 * norms[2] > 0, norms


def test_whole_weights_stay_nearer_with_decay(contract: Any) -> None:
    before = {name: value.detach().clone() for name, value in contract.model.model.named_parameters()}

    def distance(decay: float) -> float:
        change, _ = contract.run("l2_sp", parameters="full", decay=decay, epochs=4)
        after = load_tensors(change.folder / "model.safetensors")
        return sum(float((after[name] - value).square().sum()) for name, value in before.items() if name in after)

    assert distance(1.0) < 0.7 * distance(1e-6)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"rank": 4}, "rank"),
        ({"targets": "q_proj", "alpha": 3.0}, "alpha, targets"),
        ({"dropout": 0.1}, "dropout"),
        ({"rank_pattern": "q_proj=4"}, "rank_pattern"),
    ],
)
def test_settings_of_an_adapter_are_refused_without_one(values: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=f"{named} would do nothing"):
        L2SPSettings.from_mapping({**values, "parameters": "full"})
    L2SPSettings.from_mapping(values)


def test_bad_settings_are_refused(contract: Any) -> None:
    for values in ({"decay": 0}, {"parameters": "some"}):
        with pytest.raises(SettingsError, match=next(iter(values))):
            L2SPSettings.from_mapping(values)
    with pytest.raises(TargetError, match="rank 40 does not fit"):
        L2SPSettings(rank=40).check_model(contract.model)
    L2SPSettings(parameters="full").check_model(contract.model)
