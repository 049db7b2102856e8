"""Model Stock against its formula, and at its two ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from merge_models import merge_arrays, random_models

from keeps.merge.model_stock import stock_ratio


@given(st.integers(0, 2**16), st.integers(2, 4))
def test_the_result_is_the_papers_interpolation(seed: int, count: int) -> None:
    base, models = random_models(seed, count)
    common = np.random.default_rng(seed).standard_normal(base.shape).astype(np.float32)
    models = [model + np.float32(0.1) * common for model in models]  # so that the offsets have an angle
    offsets = [(model - base).astype(np.float64).reshape(-1) for model in models]
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    c = np.mean([offsets[i] @ offsets[j] / np.linalg.norm(offsets[i]) / np.linalg.norm(offsets[j]) for i, j in pairs])
    t = count * c / (1 + (count - 1) * c)
    wanted = t * np.mean([model.astype(np.float64) for model in models], 0) + (1 - t) * base
    np.testing.assert_allclose(merge_arrays("model_stock", models, base).values, wanted, atol=1e-6)


def test_parallel_offsets_give_the_mean_and_orthogonal_ones_the_base() -> None:
    assert stock_ratio(np.ones((3, 3))) == pytest.approx(1)
    assert stock_ratio(np.eye(3)) == pytest.approx(0)


def test_models_that_contradict_each_other_stay_at_the_base_when_clipped() -> None:
    base = np.zeros(3, np.float32)
    models = [np.array([1, 0, 0.5], np.float32), np.array([-1, 0.2, 0], np.float32)]
    assert np.abs(merge_arrays("model_stock", models, base).values).max() > 0
    np.testing.assert_array_equal(merge_arrays("model_stock", models, base, clip=True).values, base)
