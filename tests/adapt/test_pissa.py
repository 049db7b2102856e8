"""PiSSA: the contract, and the largest components of each weight, as a full decomposition and as peft find them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_starts import (
    check_doubled,
    check_refuses_the_starts_of_another_job,
    check_resumes_from_its_stored_start,
    check_step_zero_equals_the_base,
    peft_products,
    starts_of,
    weights_of,
)

from keeps.errors import SettingsError, TargetError


def test_it_learns(contract: Any) -> None:
    contract.check_learns("pissa", rank=8)


def test_it_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_seeds("pissa", rank=2, targets="q_proj")


def test_its_folder_loads_in_plain_peft(contract: Any) -> None:
    contract.check_folder("pissa", rank=2, alpha=8.0, rank_stabilised=True, rank_pattern={"q_proj": 5})


def test_refused_data_leaves_the_model_alone(contract: Any) -> None:
    contract.check_refused_data_leaves_the_model_alone("pissa", rank=2)


def test_step_zero_equals_the_base(contract: Any) -> None:
    check_step_zero_equals_the_base(contract, "pissa", reduced=True, rank=4, alpha=8.0)


def test_the_adapter_on_disk_has_twice_the_rank_and_every_form_is_exact(contract: Any) -> None:
    check_doubled(contract, "pissa")


def test_a_stopped_run_continues_from_its_start(contract: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_resumes_from_its_stored_start(contract, monkeypatch, tmp_path, "pissa")


def test_starts_of_another_job_are_refused(contract: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_refuses_the_starts_of_another_job(contract, monkeypatch, tmp_path, "pissa")


@pytest.mark.parametrize(
    ("values", "error"),
    [({"rank": 0}, SettingsError), ({"rank": 33}, TargetError), ({"targets": ("qproj",)}, TargetError)],
)
def test_bad_settings_are_refused(contract: Any, values: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        contract.run("pissa", **values)


@pytest.mark.parametrize("alpha", [4.0, 8.0])
def test_the_start_is_the_largest_components_split_evenly(contract: Any, alpha: float) -> None:
    starts, s = starts_of(contract, "pissa", rank=4, alpha=alpha), alpha / 4
    for name, weight in weights_of(contract).items():
        u, values, vt = torch.linalg.svd(weight, full_matrices=False)
        a, b = starts[name].a, starts[name].b
        torch.testing.assert_close(s * b @ a, u[:, :4] * values[:4] @ vt[:4], rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(a @ a.T, torch.diag(values[:4] / s), rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(b.T @ b, torch.diag(values[:4] / s), rtol=1e-8, atol=1e-9)


def test_the_start_is_that_of_peft(contract: Any) -> None:
    theirs = peft_products(contract, ["q_proj", "down_proj"], r=4, lora_alpha=8, init_lora_weights="pissa")
    starts = starts_of(contract, "pissa", rank=4, alpha=8, targets="q_proj,down_proj")
    assert theirs.keys() == starts.keys()
    for name, (a, b, s) in theirs.items():
        assert s == 2
        torch.testing.assert_close(starts[name].b @ starts[name].a, b @ a, rtol=1e-4, atol=1e-5)
