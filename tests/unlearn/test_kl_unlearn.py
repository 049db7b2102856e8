"""Gradient ascent on a leash: the contract, and that the leash is on what the model said, right or wrong."""

from __future__ import annotations

from typing import Any

import pytest

from keeps.errors import SettingsError


def test_it_forgets(contract: Any) -> None:
    contract.check_forgets("kl_unlearn", retain_weight=4.0)


def test_its_folder_loads_and_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_folder("kl_unlearn")


def test_bad_sets_are_refused(contract: Any) -> None:
    contract.check_refusals("kl_unlearn")


def test_it_does_not_teach_the_retain_set_but_holds_it_where_it_was(contract: Any) -> None:
    start = contract.losses()[1]
    held, _ = contract.run("kl_unlearn", epochs=6, retain_weight=5.0)
    taught, _ = contract.run("grad_diff", epochs=6)
    assert abs(contract.losses(held)[1] - start) < abs(contract.losses(taught)[1] - start)


def test_without_a_retain_set_it_is_refused(contract: Any) -> None:
    contract.retain = None
    with pytest.raises(SettingsError, match=r"nothing to retain \(kl_unlearn\)"):
        contract.run("kl_unlearn")
