"""The average is the weighted mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from merge_models import merge_arrays, random_models

from keeps.errors import SettingsError


@given(st.integers(0, 2**16), st.integers(2, 5), st.booleans())
def test_the_result_is_the_weighted_mean_in_float64(seed: int, count: int, normalize: bool) -> None:
    _, models = random_models(seed, count)
    weights = np.random.default_rng(seed).uniform(0.1, 2, count)
    found = merge_arrays("average", models, weights=tuple(weights), normalize=normalize).values
    total = np.tensordot(weights, np.stack(models).astype(np.float64), 1)
    np.testing.assert_allclose(found, total / weights.sum() if normalize else total, atol=3e-6)


def test_the_average_of_a_model_with_itself_is_the_model() -> None:
    _, models = random_models(0, 1)
    np.testing.assert_array_equal(merge_arrays("average", models * 2).values, models[0])


def test_weights_that_sum_to_nothing_are_refused() -> None:
    _, models = random_models(0, 2)
    with pytest.raises(SettingsError, match="sum to 0"):
        merge_arrays("average", models, weights=(1.0, -1.0))
