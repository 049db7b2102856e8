"""Task arithmetic is the sum of the differences, and nothing moves where nothing is added."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from merge_models import merge_arrays, random_models

from keeps.errors import SettingsError


@given(st.integers(0, 2**16), st.integers(1, 4), st.floats(-2, 2), st.booleans())
def test_the_result_is_the_written_out_sum_in_float64(seed: int, count: int, scale: float, normalize: bool) -> None:
    base, models = random_models(seed, count)
    weights = np.random.default_rng(seed).uniform(0.1, 1, count)
    found = merge_arrays("task_arithmetic", models, base, weights=tuple(weights), scale=scale, normalize=normalize)
    update = sum(w * (m.astype(np.float64) - base) for w, m in zip(weights, models, strict=True))
    wanted = base + scale * update / (weights.sum() if normalize else 1)
    np.testing.assert_allclose(found.values, wanted, atol=1e-6)


def test_scale_zero_gives_the_base_bit_for_bit_with_the_signs_of_its_zeros() -> None:
    base, models = random_models(0, 3)
    base[0, :4] = [0.0, -0.0, np.float32(1e-45), -1.0]
    found = merge_arrays("task_arithmetic", models, base, scale=0.0)
    assert found.values.tobytes() == base.tobytes()


def test_one_model_with_scale_one_is_that_model() -> None:
    base, models = random_models(1, 1)
    np.testing.assert_allclose(merge_arrays("task_arithmetic", models, base, scale=1.0).values, models[0], atol=2e-7)


def test_a_negative_weight_takes_away_what_a_positive_one_adds() -> None:
    base, models = random_models(2, 2)
    pair = [models[0], models[0]]
    found = merge_arrays("task_arithmetic", pair, base, weights=(1.0, -1.0), scale=1.0)
    np.testing.assert_array_equal(found.values, base)


def test_as_many_weights_as_models_are_needed() -> None:
    base, models = random_models(3, 3)
    with pytest.raises(SettingsError, match="2 weights for 3 models"):
        merge_arrays("task_arithmetic", models, base, weights=(1.0, 2.0))
