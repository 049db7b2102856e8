"""NPO: the contract, and the paper's identities in a real training step."""

from __future__ import annotations

import math
from typing import Any

import pytest

from keeps.errors import SettingsError
from keeps.unlearn.npo import NPOSettings


def test_it_forgets(contract: Any) -> None:
    contract.check_forgets("npo")


def test_its_folder_loads_and_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_folder("npo")


def test_bad_sets_are_refused(contract: Any) -> None:
    contract.check_refusals("npo")


def test_it_continues_to_the_same_bytes(contract: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    contract.check_resumes("npo", monkeypatch)


@pytest.mark.parametrize("options", [{}, {"average": True}, {"forget_weight": 0.5}])
def test_its_first_loss_is_two_over_beta_times_log_two(contract: Any, options: dict[str, Any]) -> None:
    _, run = contract.run("npo", epochs=1, beta=0.2, **options)
    first = next(value for name, step, value in run.curves if name == "loss" and step == 1)
    assert first == pytest.approx(options.get("forget_weight", 1.0) * 2 / 0.2 * math.log(2), rel=1e-4)


def test_with_a_small_beta_one_step_is_that_of_gradient_ascent(contract: Any) -> None:
    """Adam's first step depends on signs alone, and those are the signs of gradient ascent."""
    one = {"steps": 1, "batch_size": 8, "rank": 2, "warmup": 0.0}
    ours, _ = contract.run("npo", beta=1e-6, retain_weight=0, **one)
    ascent, _ = contract.run("gradient_ascent", max_loss=None, **one)
    assert contract.losses(ours) == pytest.approx(contract.losses(ascent), rel=1e-4)


def test_without_a_retain_set_it_still_runs(contract: Any) -> None:
    contract.retain = None
    change, _ = contract.run("npo")
    assert set(change.record.data) == {"forget"}


def test_it_retains_more_with_a_retain_set(contract: Any) -> None:
    held, _ = contract.run("npo", epochs=6, rank=8)
    free, _ = contract.run("npo", epochs=6, rank=8, retain_weight=0)
    assert contract.losses(held)[1] < contract.losses(free)[1]


def test_a_retain_term_may_be_a_divergence(contract: Any) -> None:
    change, _ = contract.run("npo", epochs=4, retain_loss="kl", retain_weight=5.0)
    free, _ = contract.run("npo", epochs=4, retain_weight=0)
    start = contract.losses()[1]
    assert abs(contract.losses(change)[1] - start) < abs(contract.losses(free)[1] - start)


@pytest.mark.parametrize("values", [{"beta": 0}, {"retain_weight": -1}, {"retain_loss": "l2"}, {"forget_weight": 0}])
def test_bad_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))):
        NPOSettings.from_mapping(values)
