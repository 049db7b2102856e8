"""The Karcher mean against the walk over whole vectors, and its defining property."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from merge_models import merge_arrays

from keeps.errors import SettingsError


def logarithm(point: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The arc from ``point`` to ``other`` on the sphere, as a tangent vector."""
    cosine = np.clip(point @ other, -1, 1)
    direction = other - cosine * point
    length = np.linalg.norm(direction)
    return np.zeros_like(point) if length < 1e-14 else np.arccos(cosine) * direction / length


@given(st.integers(0, 2**16), st.integers(2, 5))
def test_the_arcs_from_the_result_to_all_models_sum_to_nothing(seed: int, count: int) -> None:
    draw = np.random.default_rng(seed)
    models = [
        (draw.standard_normal(80) + 1).astype(np.float32) * np.float32(draw.uniform(0.5, 2)) for _ in range(count)
    ]
    weights = draw.uniform(0.2, 1, count)
    found = merge_arrays("karcher", models, weights=tuple(weights)).values.astype(np.float64)
    point = found / np.linalg.norm(found)
    units = [model / np.linalg.norm(model.astype(np.float64)) for model in models]
    pull = sum(w * logarithm(point, unit) for w, unit in zip(weights / weights.sum(), units, strict=True))
    assert np.linalg.norm(pull) < 1e-5
    lengths = [np.linalg.norm(model.astype(np.float64)) for model in models]
    assert np.linalg.norm(found) == pytest.approx(np.average(lengths, weights=weights), rel=1e-5)


def test_of_two_vectors_of_one_length_it_is_slerp_halfway() -> None:
    a, b = np.random.default_rng(1).standard_normal((2, 60)).astype(np.float32)
    b *= np.linalg.norm(a) / np.linalg.norm(b)
    mine, other = merge_arrays("karcher", [a, b]).values, merge_arrays("slerp", [a, b], t=0.5).values
    np.testing.assert_allclose(mine, other, atol=1e-6)


def test_a_zero_tensor_does_not_count_and_zeros_alone_stay_zero() -> None:
    a, zero = np.array([1, 2], np.float32), np.zeros(2, np.float32)
    np.testing.assert_allclose(merge_arrays("karcher", [a, zero, a]).values, a, rtol=1e-6)
    np.testing.assert_array_equal(merge_arrays("karcher", [zero, zero]).values, zero)


def test_negative_weights_are_refused() -> None:
    with pytest.raises(SettingsError, match="negative"):
        merge_arrays("karcher", [np.ones(2, np.float32)] * 2, weights=(1.0, -0.5))
