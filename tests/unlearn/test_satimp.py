"""SatImp: the contract, and that forgotten and certain tokens do not count."""

from __future__ import annotations

import math
from typing import Any

import pytest


def test_it_forgets(contract: Any) -> None:
    contract.check_forgets("satimp", saturation=0.2, importance=0.1, forget_weight=1.0)


def test_its_folder_loads_and_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_folder("satimp", saturation=0.2, forget_weight=1.0)


def test_bad_sets_are_refused(contract: Any) -> None:
    contract.check_refusals("satimp")


def test_its_first_loss_weighs_every_token_by_saturation_and_importance(contract: Any) -> None:
    _, run = contract.run("satimp", epochs=1, batch_size=8, saturation=0.3, importance=2.0, forget_weight=0.5)
    records = list(contract.forget)
    scores = contract.model.token_logprobs([r.prompt for r in records], [r.answer for r in records])
    values = [value for score in scores for value in score.logprobs]
    expected = sum(math.exp(0.3 * v) * (1 - math.exp(v)) ** 2 * v for v in values) / len(values)
    first = next(value for name, step, value in run.curves if name == "loss" and step == 1)
    assert first == pytest.approx(0.5 * expected, rel=1e-3)
