"""RecAdam at both ends of its annealing, against its rule written out, and through a resumed run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keeps.errors import SettingsError, TargetError, TrainingError
from keeps.training.optimiser import load_state_tensors, state_tensors
from keeps.training.recadam import RecAdam, annealing


def weights() -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(4))]


def train(optimiser: Any, parameters: list[torch.nn.Parameter], steps: int, begin: int = 0) -> None:
    for number in range(begin, begin + steps):
        source = torch.Generator().manual_seed(number)
        inputs = torch.randn(8, 3, generator=source)
        optimiser.zero_grad()
        (inputs @ parameters[0].T + parameters[1]).pow(2).mean().backward()
        optimiser.step()


def after(make: Callable[[list[torch.nn.Parameter]], Any], steps: int = 60) -> list[torch.Tensor]:
    parameters = weights()
    train(make(parameters), parameters, steps)
    return [parameter.detach() for parameter in parameters]


def distance(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("start", [1e9, math.inf])
@pytest.mark.parametrize("pull", ["explicit", "sequential", "implicit"])
def test_weights_stay_where_they_were_when_the_task_never_begins(pull: str, start: float) -> None:
    found = after(lambda parameters: RecAdam(parameters, lr=0.01, start=start, coefficient=1e9, pull=pull))
    assert distance(found, [parameter.detach() for parameter in weights()]) == 0


@pytest.mark.parametrize("start", [-1e9, -math.inf])
@pytest.mark.parametrize("pull", ["explicit", "sequential", "implicit"])
def test_it_is_adam_when_only_the_task_counts(pull: str, start: float) -> None:
    adam = after(lambda parameters: torch.optim.Adam(parameters, lr=0.01))
    assert distance(adam, [parameter.detach() for parameter in weights()]) > 0.1
    assert distance(after(lambda p: RecAdam(p, lr=0.01, start=start, pull=pull)), adam) < 1e-6


def test_each_step_is_the_published_rule() -> None:
    lr, (beta1, beta2), eps, k, start, gamma = 0.01, (0.8, 0.9), 1e-6, 0.3, 4, 20.0
    parameters = [torch.nn.Parameter(torch.tensor([0.5, -1.0]))]
    optimiser = RecAdam(parameters, lr=lr, betas=(beta1, beta2), eps=eps, rate=k, start=start, coefficient=gamma)
    anchor = [0.5, -1.0]
    theta, first, second = list(anchor), [0.0, 0.0], [0.0, 0.0]
    for step in range(1, 9):
        gradient = [2 * value + 0.1 * step for value in theta]
        parameters[0].grad = torch.tensor(gradient)
        optimiser.step()
        share = 1 / (1 + math.exp(-k * (step - start)))
        for n, slope in enumerate(gradient):
            first[n] = beta1 * first[n] + (1 - beta1) * slope
            second[n] = beta2 * second[n] + (1 - beta2) * slope**2
            adam = first[n] / (1 - beta1**step) / (math.sqrt(second[n] / (1 - beta2**step)) + eps)
            theta[n] += -lr * share * adam - lr * (1 - share) * gamma * (theta[n] - anchor[n])
        assert parameters[0].tolist() == pytest.approx(theta, abs=1e-5)


def test_a_stronger_pull_keeps_weights_nearer() -> None:
    start = [parameter.detach() for parameter in weights()]
    moved = [
        distance(after(lambda p, c=c: RecAdam(p, lr=0.01, rate=0.1, start=40, coefficient=c), 20), start)
        for c in (0.0, 20.0, 100.0)
    ]
    assert moved[0] > moved[1] > moved[2] > 0


def test_a_pull_that_would_throw_weights_away_is_refused_and_the_implicit_one_holds() -> None:
    def make(pull: str) -> Callable[[Any], RecAdam]:
        return lambda parameters: RecAdam(parameters, lr=1e-3, rate=0.1, start=20, coefficient=5000, pull=pull)

    with pytest.raises(TrainingError, match="would overshoot"):
        after(make("explicit"))
    assert distance(after(make("implicit"), 10), [parameter.detach() for parameter in weights()]) < 1e-3


def test_it_goes_on_from_its_state() -> None:
    whole = weights()
    anchors = [parameter.detach().clone() for parameter in whole]
    options: dict[str, Any] = {"lr": 0.01, "rate": 0.5, "start": 6, "coefficient": 20.0}
    train(RecAdam(whole, **options), whole, 12)
    halves = weights()
    first = RecAdam(halves, **options)
    train(first, halves, 5)
    names: dict[torch.Tensor, str] = dict(zip(halves, ("matrix", "vector"), strict=True))
    tensors = {name: value.clone() for name, value in state_tensors(first, names).items()}
    second = RecAdam(halves, anchors, **options)
    load_state_tensors(second, tensors, names)
    train(second, halves, 7, begin=5)
    assert all(torch.equal(one, other) for one, other in zip(whole, halves, strict=True))


@given(st.integers(1, 5000), st.floats(0, 10), st.floats(-1e6, 1e6))
def test_annealing_is_a_share_that_never_falls(step: int, rate: float, start: float) -> None:
    now, later = (annealing(number, rate=rate, start=start) for number in (step, step + 1))
    assert 0 <= now <= later <= 1
    if abs(rate * (step - start)) < 500:
        assert now == pytest.approx(0.5 * (1 + math.tanh(rate * (step - start) / 2)), abs=1e-12)


def test_what_does_not_fit_is_refused() -> None:
    for wrong in (
        {"lr": -1.0},
        {"coefficient": math.inf},
        {"betas": (0.9, 1.0)},
        {"pull": "hard"},
        {"start": math.nan},
    ):
        with pytest.raises(SettingsError):
            RecAdam(weights(), **wrong)  # type: ignore[arg-type]
    with pytest.raises(TargetError, match="1 anchors do not fit 2"):
        RecAdam(weights(), [torch.zeros(4, 3)])
