"""PDU: the contract, the multiplier's steps against the formula, and that a tighter bound retains more."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keeps.contracts import Run
from keeps.errors import SettingsError
from keeps.numerics.forgetting_losses import flatness, next_multiplier
from keeps.unlearn.pdu import Constraint, PDUSettings

MOVING = {"dual_warmup": 1, "epochs": 6, "rank": 8}


def curve(run: Run, wanted: str) -> list[float]:
    return [value for name, _, value in run.curves if name == wanted]


def test_it_forgets(contract: Any) -> None:
    contract.check_forgets("pdu")


def test_its_folder_loads_and_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_folder("pdu")


def test_bad_sets_are_refused(contract: Any) -> None:
    contract.check_refusals("pdu")


def test_it_continues_to_the_same_bytes_with_the_multiplier_as_it_was(
    contract: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract.check_resumes("pdu", monkeypatch, dual_warmup=0, epochs=3)


def test_the_multiplier_follows_the_published_step_after_the_warm_up(contract: Any) -> None:
    _, run = contract.run("pdu", **MOVING, bound=0.5, multiplier=2.0, dual_rate=0.7)
    found, losses = curve(run, "multiplier"), curve(run, "retain_loss")
    assert found[:2] == [2.0, 2.0], "two steps are the first epoch"
    for (before, after), loss in zip(pairwise(found[1:]), losses[2:], strict=True):
        assert after == pytest.approx(max(0.0, before + 0.7 * (loss - 0.5)), abs=1e-6)
    assert len(set(found)) > 2


def test_the_default_bound_is_the_loss_before_and_its_tolerance(contract: Any) -> None:
    _, run = contract.run("pdu", tolerance=0.5)
    assert run.measures["retain_bound"] == pytest.approx(1.5 * run.measures["retain_loss_before"])


def test_a_tight_bound_retains_more_than_a_loose_one(contract: Any) -> None:
    tight, _ = contract.run("pdu", **MOVING, multiplier=0.0, dual_rate=5.0)
    loose, _ = contract.run("pdu", **MOVING, multiplier=0.0, dual_rate=5.0, bound=50.0)
    assert contract.losses(tight)[1] < contract.losses(loose)[1]


def test_a_constraint_of_several_passes_steps_on_their_mean(contract: Any) -> None:
    values = iter([torch.tensor(1.0), torch.tensor(3.0)])
    run = Run(contract.folder)
    constraint = Constraint(lambda _: next(values), 0.5, start=1.0, rate=1.0, held=0, run=run)
    module = torch.nn.Linear(1, 1)
    assert float(constraint(module)) == 0.5
    assert float(constraint(module)) == 2.5
    constraint.after_step(module, 1, None)
    assert constraint.multiplier == 2.5


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=8), st.floats(-20, 20))
def test_flatness_is_the_squared_margin_and_a_common_shift_changes_nothing(values: list[float], shift: float) -> None:
    z = torch.tensor(values, dtype=torch.float64)
    wanted = (max(values) - sum(values) / len(values)) ** 2
    assert float(flatness(z)) == pytest.approx(wanted, abs=1e-9)
    assert float(flatness(z + shift)) == pytest.approx(wanted, abs=1e-6)
    assert float(flatness(torch.full_like(z, shift))) == pytest.approx(0, abs=1e-12)


@given(st.floats(0, 10), st.floats(-10, 10), st.floats(0, 5))
def test_a_multiplier_is_never_below_zero_and_rises_exactly_while_the_bound_is_broken(
    multiplier: float, constraint: float, step: float
) -> None:
    after = next_multiplier(multiplier, constraint, step)
    assert after >= 0
    assert after >= multiplier if constraint >= 0 else after <= multiplier


@pytest.mark.parametrize(
    "values", [{"bound": 1.0, "tolerance": 0.3}, {"retain_weight": 2.0}, {"retain_loss": "kl"}, {"dual_rate": 0}]
)
def test_bad_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        PDUSettings.from_mapping(values)
