"""Gradient difference: the contract, and that it cannot do without a retain set."""

from __future__ import annotations

from typing import Any

import pytest

from keeps.data.records import RecordSet
from keeps.errors import SettingsError


def test_it_forgets(contract: Any) -> None:
    contract.check_forgets("grad_diff")


def test_its_folder_loads_and_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_folder("grad_diff")


def test_bad_sets_are_refused(contract: Any) -> None:
    contract.check_refusals("grad_diff")


def test_it_learns_the_retain_set_while_it_forgets(contract: Any) -> None:
    change, _ = contract.run("grad_diff", epochs=8, rank=8)
    ascent, _ = contract.run("gradient_ascent", epochs=8, rank=8)
    assert contract.losses(change)[1] < contract.losses(ascent)[1] - 1.0


@pytest.mark.parametrize("retain", [None, RecordSet("nothing", ())])
def test_without_a_retain_set_it_is_refused(contract: Any, retain: RecordSet | None) -> None:
    contract.retain = retain
    with pytest.raises(SettingsError, match=r"nothing to retain \(grad_diff\): give --retain"):
        contract.run("grad_diff")


def test_a_retain_weight_of_zero_is_refused(contract: Any) -> None:
    with pytest.raises(SettingsError, match="retain_weight is 0"):
        contract.run("grad_diff", retain_weight=0)
