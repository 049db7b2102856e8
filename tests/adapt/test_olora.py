"""OLoRA: the contract, and the first columns of Q and rows of R, as a full decomposition and as peft find them."""

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
    contract.check_learns("olora", rank=8)


def test_it_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_seeds("olora", rank=2, targets="q_proj")


def test_its_folder_loads_in_plain_peft(contract: Any) -> None:
    contract.check_folder("olora", rank=2, alpha=8.0, rank_stabilised=True, rank_pattern={"q_proj": 5})


def test_refused_data_leaves_the_model_alone(contract: Any) -> None:
    contract.check_refused_data_leaves_the_model_alone("olora", rank=2)


def test_step_zero_equals_the_base(contract: Any) -> None:
    check_step_zero_equals_the_base(contract, "olora", reduced=True, rank=4, alpha=8.0)


def test_the_adapter_on_disk_has_twice_the_rank_and_every_form_is_exact(contract: Any) -> None:
    check_doubled(contract, "olora")


def test_a_stopped_run_continues_from_its_start(contract: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_resumes_from_its_stored_start(contract, monkeypatch, tmp_path, "olora")


def test_starts_of_another_job_are_refused(contract: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_refuses_the_starts_of_another_job(contract, monkeypatch, tmp_path, "olora")


@pytest.mark.parametrize(
    ("values", "error"),
    [({"rank": 0}, SettingsError), ({"rank": 33}, TargetError), ({"targets": ("qproj",)}, TargetError)],
)
def test_bad_settings_are_refused(contract: Any, values: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        contract.run("olora", **values)


def test_the_start_is_the_first_part_of_the_whole_decomposition(contract: Any) -> None:
    starts = starts_of(contract, "olora", rank=4, alpha=8.0)
    for name, weight in weights_of(contract).items():
        q, r = torch.linalg.qr(weight)
        torch.testing.assert_close(starts[name].b @ starts[name].a, q[:, :4] @ r[:4])
        torch.testing.assert_close(starts[name].b.T @ starts[name].b, torch.eye(4, dtype=torch.float64))


def test_the_start_is_that_of_peft(contract: Any) -> None:
    theirs = peft_products(contract, ["q_proj", "down_proj"], r=4, lora_alpha=8, init_lora_weights="olora")
    starts = starts_of(contract, "olora", rank=4, alpha=8, targets="q_proj,down_proj")
    assert theirs.keys() == starts.keys()
    for name, (a, b, s) in theirs.items():
        assert s == 2
        torch.testing.assert_close(starts[name].b @ starts[name].a, b @ a, rtol=1e-4, atol=1e-5)


def test_linearly_dependent_first_columns_still_give_an_orthonormal_b() -> None:
    from keeps.numerics.starts import orthogonal_start

    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight[:, 1] = 2 * weight[:, 0]
    start = orthogonal_start(weight, 3)
    torch.testing.assert_close(start.b.T @ start.b, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(start.b @ start.a, start.b @ start.b.T @ weight)
