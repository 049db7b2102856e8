"""Breadcrumbs against sorting."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from merge_models import merge_arrays, random_models

from keeps.merge.breadcrumbs import band


@given(st.integers(0, 2**16), st.floats(0.05, 0.95), st.floats(0, 0.5))
def test_the_kept_entries_are_a_band_of_ranks(seed: int, density: float, gamma: float) -> None:
    base, models = random_models(seed, 2)
    found = merge_arrays("breadcrumbs", models, base, density=density, gamma=gamma, scale=1.0)
    wanted = base.astype(np.float64)
    for model in models:
        delta = (model - base).reshape(-1)
        order = np.argsort(-np.abs(delta), kind="stable")
        first, last = band(delta.size, density, gamma)
        mask = np.zeros(delta.size)
        mask[order[first - 1 : last]] = 1
        wanted = wanted + (mask * delta).reshape(base.shape)
    np.testing.assert_allclose(found.values, wanted, atol=1e-6)


def test_density_one_is_task_arithmetic_and_a_density_of_no_entry_is_the_base() -> None:
    base, models = random_models(1, 2)
    whole = merge_arrays("breadcrumbs", models, base, density=1.0, scale=0.3).values
    np.testing.assert_allclose(whole, merge_arrays("task_arithmetic", models, base, scale=0.3).values, atol=1e-7)
    assert merge_arrays("breadcrumbs", models, base, density=1e-6).values.tobytes() == base.tobytes()
