"""SLERP keeps lengths, ends at its models, and takes the chord where they are parallel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from merge_models import merge_arrays, random_models

from keeps.errors import SettingsError
from keeps.jobs.merging import merging_method
from keeps.registry import find_method


@given(st.integers(0, 2**16), st.floats(0, 1))
def test_the_result_is_the_point_on_the_arc(seed: int, t: float) -> None:
    draw = np.random.default_rng(seed)
    a, b = draw.standard_normal((2, 30, 11)).astype(np.float32)
    found = merge_arrays("slerp", [a, b], t=t).values
    x, y = a.astype(np.float64), b.astype(np.float64)
    angle = np.arccos((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y))
    wanted = (np.sin((1 - t) * angle) * x + np.sin(t * angle) * y) / np.sin(angle)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_between_vectors_of_one_length_the_length_stays() -> None:
    draw = np.random.default_rng(0)
    a, b = (v / np.linalg.norm(v) for v in draw.standard_normal((2, 100)).astype(np.float32))
    assert np.linalg.norm(merge_arrays("slerp", [a, b], t=0.5).values) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm((a + b) / 2) < 0.8


def test_the_ends_are_the_models_bit_for_bit() -> None:
    _, models = random_models(1, 2)
    for t in (0.0, 1.0):
        assert merge_arrays("slerp", models, t=t).values.tobytes() == models[int(t)].tobytes()


def test_parallel_tensors_and_zeros_are_joined_along_the_chord() -> None:
    a = np.array([1, 2, 3], np.float32)
    np.testing.assert_allclose(merge_arrays("slerp", [a, 2 * a], t=0.25).values, 1.25 * a, rtol=1e-6)
    zero = merge_arrays("slerp", [np.zeros(3, np.float32), a], t=0.5).values
    assert np.isfinite(zero).all()


def test_any_other_number_of_models_is_refused() -> None:
    with pytest.raises(SettingsError, match="takes 2 models"):
        merging_method(find_method("slerp", "merge"), None).check_models("slerp", 3, base=False)
