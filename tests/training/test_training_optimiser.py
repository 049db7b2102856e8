"""Learning rates and decay as the settings promise."""

from __future__ import annotations

import math

import pytest
import torch

from keeps.errors import SettingsError
from keeps.training import TrainingSettings
from keeps.training.optimiser import learning_rate_at, load_state_tensors, make_optimiser, state_tensors


def rates(total: int, **settings: object) -> list[float]:
    chosen = TrainingSettings.from_mapping({"learning_rate": 2.0, **settings})
    return [learning_rate_at(step, total, chosen) for step in range(total)]


def test_warm_up_rises_in_equal_parts_to_the_full_rate() -> None:
    assert rates(20, warmup=0.2, schedule="constant") == pytest.approx([0.5, 1.0, 1.5, 2.0] + [2.0] * 16)


def test_cosine_falls_along_half_a_wave_from_the_full_rate() -> None:
    expected = [2.0 * 0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10)]
    assert rates(10, warmup=0, schedule="cosine") == pytest.approx(expected)


def test_linear_falls_by_equal_parts_and_never_reaches_zero() -> None:
    assert rates(4, warmup=0, schedule="linear") == pytest.approx([2.0, 1.5, 1.0, 0.5])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("total", [1, 2, 7])
@pytest.mark.parametrize("warmup", [0, 0.03, 1])
def test_every_rate_is_positive_and_at_most_the_full_one(schedule: str, total: int, warmup: float) -> None:
    found = rates(total, schedule=schedule, warmup=warmup)
    assert all(0 < rate <= 2.0 for rate in found)
    assert max(found) == 2.0


def test_decay_acts_on_matrices_and_not_on_vectors() -> None:
    parameters = {"matrix": torch.nn.Parameter(torch.ones(2, 2)), "vector": torch.nn.Parameter(torch.ones(2))}
    optimiser = make_optimiser(parameters, TrainingSettings(learning_rate=0.1, weight_decay=0.5))
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    torch.testing.assert_close(parameters["matrix"].detach(), torch.full((2, 2), 1 - 0.1 * 0.5))
    assert torch.equal(parameters["vector"].detach(), torch.ones(2))


def test_the_state_survives_a_round_trip_whatever_the_order_of_parameters() -> None:
    def fresh() -> dict[str, torch.nn.Parameter]:
        torch.manual_seed(0)
        shapes = {"vector": (3,), "matrix": (2, 2), "unused": (2,)}
        return {name: torch.nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}

    def step(parameters: dict[str, torch.nn.Parameter], optimiser: torch.optim.Optimizer) -> None:
        for name in ("vector", "matrix"):
            parameters[name].grad = parameters[name].detach() * 2
        optimiser.step()

    settings = TrainingSettings(learning_rate=0.1)
    first = fresh()
    optimiser = make_optimiser(first, settings)
    step(first, optimiser)
    tensors = state_tensors(optimiser, {value: name for name, value in first.items()})
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    assert not any(key.endswith("/unused") for key in tensors)
    second = fresh()
    with torch.no_grad():
        for name, value in second.items():
            value.copy_(first[name])
    again = make_optimiser(second, settings)
    load_state_tensors(again, tensors, {value: name for name, value in second.items()})
    step(first, optimiser)
    step(second, again)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "values",
    [{"epochs": 0}, {"learning_rate": 0}, {"schedule": "cosin"}, {"clip": -1}, {"warmup": 1.5}, {"precision": "int8"}],
)
def test_settings_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        TrainingSettings.from_mapping(values)
