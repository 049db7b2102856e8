"""DARE: masks of the right density, an expectation that is the task vector, and the ways to stretch and to join."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from merge_models import merge_arrays, random_models

from keeps.weights.random_masks import bernoulli


def test_the_mean_of_many_draws_is_the_task_vector() -> None:
    base, models = random_models(0, 1, (12, 11))
    tau, draws, drop = models[0] - base, 2000, 0.9
    mean = np.mean(
        [merge_arrays("dare", models, base, density=1 - drop, scale=1.0, seed=s).values - base for s in range(draws)], 0
    )
    error = np.linalg.norm(mean - tau) / np.linalg.norm(tau)
    assert error == pytest.approx(np.sqrt(drop / (1 - drop) / draws), rel=0.25)


@given(st.integers(0, 2**16), st.floats(0.05, 0.95))
def test_an_entry_is_dropped_or_divided_by_the_density(seed: int, density: float) -> None:
    base, models = random_models(seed, 1)
    found = merge_arrays("dare", models, base, density=density, scale=1.0, seed=seed)
    mask = bernoulli(seed, 0, "w", 0, base.size, density).reshape(base.shape)
    np.testing.assert_allclose(found.values, base + np.where(mask, (models[0] - base) / density, 0), atol=2e-6)
    kept = mask.mean()
    assert abs(kept - density) < 5 * np.sqrt(density * (1 - density) / base.size)


def test_density_one_is_task_arithmetic() -> None:
    base, models = random_models(3, 3)
    mine = merge_arrays("dare", models, base, density=1.0, scale=0.4).values
    np.testing.assert_array_equal(mine, merge_arrays("task_arithmetic", models, base, scale=0.4).values)


def test_l1_restores_the_sum_of_magnitudes() -> None:
    base, models = random_models(4, 1)
    base[:] = 0
    for rescale, same in (("l1", True), ("none", False)):
        found = merge_arrays("dare", models, base, density=0.3, scale=1.0, rescale=rescale).values
        assert bool(np.isclose(np.abs(found).sum(), np.abs(models[0]).sum(), rtol=1e-5)) is same


def test_models_draw_independently_and_a_seed_draws_again() -> None:
    base, models = random_models(5, 1)
    surviving = merge_arrays("dare", models * 2, base, density=0.5).surviving
    other = merge_arrays("dare", models * 2, base, density=0.5, seed=1).surviving
    assert surviving is not None
    assert other is not None
    assert 0.4 < (surviving[0] == surviving[1]).mean() < 0.6
    assert 0.4 < (surviving == other).mean() < 0.6


def test_vectors_may_be_left_alone() -> None:
    base, models = random_models(6, 1, (50,))
    found = merge_arrays("dare", models, base, density=0.1, scale=1.0, vectors="keep").values
    np.testing.assert_allclose(found, models[0], atol=2e-7)


def test_with_ties_only_the_elected_sign_is_left() -> None:
    base = np.zeros(2, dtype=np.float32)
    models = [np.array([3, 1], np.float32), np.array([-1, 1], np.float32)]
    found = merge_arrays("dare", models, base, density=1.0, scale=1.0, then="ties", normalize=True).values
    np.testing.assert_array_equal(found, np.array([3, 1], np.float32))
    added = merge_arrays("dare", models, base, density=1.0, scale=1.0, then="ties").values
    np.testing.assert_array_equal(added, np.array([3, 2], np.float32))


def test_weights_that_sum_to_nothing_divide_by_nothing() -> None:
    base, models = random_models(7, 2)
    options = {"density": 1.0, "scale": 1.0, "weights": (0.5, -0.5)}
    found = merge_arrays("dare", models, base, normalize=True, **options).values
    np.testing.assert_array_equal(found, merge_arrays("dare", models, base, **options).values)
