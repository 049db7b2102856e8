"""WGA: the contract, and that its weight is the token's own probability."""

from __future__ import annotations

import math
from typing import Any

import pytest


def test_it_forgets(contract: Any) -> None:
    contract.check_forgets("wga", beta=0.2)


def test_its_folder_loads_and_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_folder("wga", beta=0.2)


def test_bad_sets_are_refused(contract: Any) -> None:
    contract.check_refusals("wga")


def test_its_first_loss_weighs_every_token_by_its_probability(contract: Any) -> None:
    _, run = contract.run("wga", epochs=1, batch_size=8, beta=0.3)
    records = list(contract.forget)
    scores = contract.model.token_logprobs([r.prompt for r in records], [r.answer for r in records])
    values = [value for score in scores for value in score.logprobs]
    expected = sum(math.exp(0.3 * value) * value for value in values) / len(values)
    first = next(value for name, step, value in run.curves if name == "loss" and step == 1)
    assert first == pytest.approx(expected, rel=1e-3)


def test_without_its_weight_it_is_gradient_ascent(contract: Any) -> None:
    ours, _ = contract.run("wga", beta=0.0, retain_weight=0, rank=2)
    ascent, _ = contract.run("gradient_ascent", max_loss=None, rank=2)
    assert contract.losses(ours) == pytest.approx(contract.losses(ascent), rel=1e-5)
