"""The known answers of KaSA's regressions: the experiments must plant what they say they plant."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import keeps.claims.kasa_exactness as exactness
from keeps.claims.base import ClaimRun
from keeps.claims.kasa_regression import (
    COLUMNS,
    DEFAULTS,
    RANK,
    ROWS,
    SAMPLES,
    UPDATE,
    fit,
    planted_problems,
    regression_problems,
    without_smallest,
)


def test_the_regression_s_target_is_the_truncated_weight_plus_the_update() -> None:
    problems = regression_problems(2)
    values = torch.linalg.svdvals(problems.target - without_smallest(problems.weight))
    torch.testing.assert_close(values[:, :3], torch.tensor([sorted(UPDATE, reverse=True)] * 2), atol=1e-4, rtol=1e-4)
    assert float(values[:, 3:].max()) < 1e-4
    torch.testing.assert_close(problems.outputs, problems.inputs @ problems.target.mT)


def test_the_planted_noise_is_what_truncation_removes_and_the_task_lacks() -> None:
    noise, needed = planted_problems(2), planted_problems(2, noise_matters=True)
    assert noise.inputs.shape == (2, SAMPLES, COLUMNS)
    assert SAMPLES < COLUMNS
    planted = noise.weight - without_smallest(noise.weight)
    torch.testing.assert_close(torch.linalg.svdvals(planted)[:, :RANK], torch.full((2, RANK), 0.9), atol=1e-4, rtol=0)
    torch.testing.assert_close(needed.weight, noise.weight)
    torch.testing.assert_close(needed.target - noise.target, planted, atol=1e-5, rtol=0)
    # what is left to learn: the update alone with the noise removed, the update and minus the noise without
    ranks = [
        int(torch.linalg.matrix_rank(noise.target[0] - base[0], atol=1e-3))
        for base in (without_smallest(noise.weight), noise.weight)
    ]
    assert ranks == [3, 3 + RANK]


@pytest.mark.parametrize("penalties", [None, DEFAULTS])
@pytest.mark.parametrize("truncated", [True, False])
def test_a_fit_is_the_base_plus_the_adapter(truncated: bool, penalties: tuple[float, float] | None) -> None:
    problems = planted_problems(2)
    base = without_smallest(problems.weight) if truncated else problems.weight
    start, end = (fit(problems, penalties, truncated=truncated, rate=0.01, steps=steps) for steps in (0, 20))
    torch.testing.assert_close(start.weight, base)
    torch.testing.assert_close(end.weight, base + end.b @ (end.gate[..., None] * end.a))
    before, after = (
        (problems.inputs @ fits.weight.mT - problems.outputs).square().mean((-2, -1)) for fits in (start, end)
    )
    assert bool((after < 0.9 * before).all()), (before, after)
    assert torch.equal(end.gate, torch.ones(2, RANK)) == (penalties is None), "LoRA has no gate to train"


def test_the_test_loss_is_the_mean_over_standard_normal_inputs() -> None:
    problems = planted_problems(1)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200_000, COLUMNS, generator=generator)
    sampled = (inputs @ (problems.weight - problems.target)[0].T).square().mean()
    assert float(problems.test_loss(problems.weight)[0]) == pytest.approx(float(sampled), rel=0.02)
    assert problems.weight.shape == (1, ROWS, COLUMNS)


def test_the_exactness_checks_hold_on_a_tiny_model_and_see_a_truncation_of_another_rank(
    tiny_llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exactness, "BLOCKS", (0, 1))
    monkeypatch.setattr(exactness, "PASSAGES", 1)
    before = tiny_llama.fingerprint
    checks = list(exactness.exactness_checks(tiny_llama, ClaimRun()))
    failed = [(check.name, check.measured) for check in checks if not check.holds and "perplexity" not in check.name]
    assert failed == []
    assert len(checks) == 11
    real = exactness.wrap_kasa

    def other_rank(model: Any, settings: Any, run: Any) -> Any:
        return real(model, type(settings)(rank=settings.rank - 1, alpha=(settings.rank - 1) * 2.0), run)

    monkeypatch.setattr(exactness, "wrap_kasa", other_rank)
    first = list(exactness.exactness_checks(tiny_llama, ClaimRun()))[:3]
    assert [check.holds for check in first] == [False, False, False]
    assert tiny_llama.fingerprint == before
