"""Negation: the contract, its monotone strength, and that it is the product of an adapter that is negated."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from keeps.errors import SettingsError
from keeps.models.adapter_files import read_factors
from keeps.unlearn.negation import NegationSettings, largest_strength
from keeps.weights import load_tensors

QUICK: dict[str, Any] = {"epochs": 3, "learning_rate": 0.003}


def test_its_folder_loads_and_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_folder("negation", strength=1.0)


def test_bad_sets_are_refused(contract: Any) -> None:
    contract.check_refusals("negation")


def test_the_loss_of_the_forget_set_rises_with_the_strength(contract: Any) -> None:
    losses = [contract.losses()[0]]
    for strength in (0.5, 1.0, 2.0):
        change, _ = contract.run("negation", **QUICK, strength=strength, rank=4)
        losses.append(contract.losses(change)[0])
    assert losses == sorted(losses), losses
    assert losses[-1] > losses[0] + 0.1, losses


def test_what_is_written_is_minus_the_strength_times_the_trained_product(contract: Any) -> None:
    once, _ = contract.run("negation", **QUICK, strength=1.0, rank=2)
    twice, _ = contract.run("negation", **QUICK, strength=2.0, rank=2)
    for name, (a, b) in read_factors(once.folder).items():
        a2, b2 = read_factors(twice.folder)[name]
        torch.testing.assert_close(2 * (b @ a), b2 @ a2)
        assert torch.equal(a, a2), "one factor alone is negated"


def test_a_strength_of_zero_gives_the_model_bit_for_bit(contract: Any) -> None:
    change, run = contract.run("negation", **{**QUICK, "learning_rate": 1e-4}, strength=0.0, parameters="full")
    tensors = load_tensors(change.folder / "model.safetensors")
    parameters = dict(contract.model.model.named_parameters())
    assert all(torch.equal(value, parameters[name]) for name, value in tensors.items() if name in parameters)
    assert run.measures["control_after"] == run.measures["control_before"]


@pytest.mark.parametrize("retain", [True, False])
def test_the_strength_found_keeps_the_control_metric(contract: Any, retain: bool) -> None:
    contract.retain = contract.retain if retain else None
    _, run = contract.run("negation", **QUICK, rank=4)
    measures = run.measures
    assert 0 <= measures["strength"] <= 1
    assert measures["control_after"] >= 0.95 * measures["control_before"]


def test_the_largest_strength_that_is_good_enough_is_taken() -> None:
    asked: list[float] = []

    def metric(strength: float) -> float:
        asked.append(strength)
        return 1 - strength**2

    assert largest_strength(metric, 0.9) == 0.3
    assert asked[:2] == [1.0, 0.95]
    assert largest_strength(lambda _: 0.0, 0.5) == 0.0


@pytest.mark.parametrize("values", [{"stop": "extraction"}, {"strength": 1.0, "keep_share": 0.9}, {"strength": -1}])
def test_settings_without_effect_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=list(values)[-1]):
        NegationSettings.from_mapping(values)
