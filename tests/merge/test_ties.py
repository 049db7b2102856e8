"""TIES against its three steps written out with sorting, over one tensor and over a whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from merge_models import family, merge_arrays, random_models, read

from keeps.jobs.merging import merge


def trimmed(delta: Any, density: float) -> Any:
    """All entries that are at least as large as the k-th largest."""
    k = int(density * delta.size)
    if k == 0:
        return np.zeros_like(delta)
    threshold = np.sort(np.abs(delta).reshape(-1))[::-1][k - 1]
    return np.where(np.abs(delta) >= threshold, delta, 0)


def elected(deltas: list[Any], weights: Any, zero: float) -> Any:
    """Steps 2 and 3 in float64."""
    weighted = [w * d.astype(np.float64) for w, d in zip(weights, deltas, strict=True)]
    sign = np.sign(np.float32(sum(np.float32(row) for row in weighted)))
    sign = np.where(sign == 0, zero, sign)
    agree = [(np.sign(row) == sign) & (row != 0) for row in weighted]
    count = sum(w * a for w, a in zip(weights, agree, strict=True))
    return sum(row * a for row, a in zip(weighted, agree, strict=True)) / np.where(count == 0, 1, count)


@given(st.integers(0, 2**16), st.integers(1, 4), st.floats(0.01, 1))
def test_one_tensor_is_trimmed_elected_and_averaged_as_the_paper_says(seed: int, count: int, density: float) -> None:
    base, models = random_models(seed, count)
    found = merge_arrays("ties", models, base, density=density)
    deltas = [trimmed(model - base, density) for model in models]
    np.testing.assert_allclose(found.values, base + elected(deltas, [1.0] * count, 1), atol=1e-6)
    np.testing.assert_array_equal(found.surviving, np.stack([delta.reshape(-1) != 0 for delta in deltas]))


def test_one_model_with_density_and_scale_one_is_that_model() -> None:
    base, models = random_models(5, 1)
    np.testing.assert_allclose(merge_arrays("ties", models, base, density=1.0).values, models[0], atol=2e-7)


def test_density_zero_is_the_base() -> None:
    base, models = random_models(5, 2)
    assert merge_arrays("ties", models, base, density=0.0).values.tobytes() == base.tobytes()


def test_equal_magnitudes_at_the_threshold_are_all_kept() -> None:
    base = np.zeros(8, dtype=np.float32)
    model = np.array([3, 2, 2, -2, 2, 1, 1, 1], np.float32)
    found = merge_arrays("ties", [model], base, density=0.25)  # two of eight: 3 and one of the four 2s
    np.testing.assert_array_equal(found.values, np.array([3, 2, 2, -2, 2, 0, 0, 0], np.float32))


@pytest.mark.parametrize(("rule", "wanted"), [("majority", -2.0), ("plus", 2.0)])
def test_a_sum_of_zero_takes_the_sign_of_the_majority_or_counts_as_positive(rule: str, wanted: float) -> None:
    base = np.zeros(4, dtype=np.float32)
    models = [np.array([2, -1, -1, 1], np.float32), np.array([-2, -1, -1, 1], np.float32)]
    found = merge_arrays("ties", models, base, density=1.0, zero_sign=rule)
    np.testing.assert_array_equal(found.values, np.array([wanted, -1, -1, 1], np.float32))


@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_trimming_is_over_all_tensors_together_or_over_each(tmp_path: Path, scope: str) -> None:
    base, models = family(tmp_path)
    merge([str(m) for m in models], str(base), method="ties", settings={"scope": scope}, out=tmp_path / "out")
    start, tuned, found = read(base), [read(model) for model in models], read(tmp_path / "out")
    deltas = [{name: model[name] - start[name] for name in start} for model in tuned]
    if scope == "tensor":
        kept = [{name: trimmed(value, 0.2) for name, value in delta.items()} for delta in deltas]
    else:
        kept = []
        for delta in deltas:
            whole = np.concatenate([value.reshape(-1) for value in delta.values()])
            threshold = np.abs(trimmed(whole, 0.2))
            threshold = threshold[threshold > 0].min()
            kept.append({name: np.where(np.abs(value) >= threshold, value, 0) for name, value in delta.items()})
    for name, value in start.items():
        wanted = value + elected([delta[name] for delta in kept], [1.0] * len(models), 1)
        np.testing.assert_allclose(found[name], wanted, atol=1e-6, err_msg=name)
