"""SimNPO: the contract, and its loss of answers of any length."""

from __future__ import annotations

import math
from typing import Any

import pytest

from keeps.errors import SettingsError
from keeps.unlearn.simnpo import SimNPOSettings


def test_it_forgets(contract: Any) -> None:
    contract.check_forgets("simnpo", forget_weight=1.0)


def test_its_folder_loads_and_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_folder("simnpo")


def test_bad_sets_are_refused(contract: Any) -> None:
    contract.check_refusals("simnpo")


def test_its_first_loss_is_the_mean_over_answers_of_the_mean_over_tokens(contract: Any) -> None:
    _, run = contract.run("simnpo", epochs=1, batch_size=8, beta=0.5, delta=2.0, forget_weight=0.125)
    records = list(contract.forget)
    scores = contract.model.logprob([r.prompt for r in records], [r.answer for r in records])
    terms = [2 / 0.5 * math.log1p(math.exp(-0.5 * (-score.per_token - 2.0))) for score in scores]
    first = next(value for name, step, value in run.curves if name == "loss" and step == 1)
    assert first == pytest.approx(0.125 * sum(terms) / len(terms), rel=1e-3)


@pytest.mark.parametrize("values", [{"beta": 0}, {"delta": -1}])
def test_bad_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))):
        SimNPOSettings.from_mapping(values)
