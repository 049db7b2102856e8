"""TIES is written for files (numpy, in pieces, exact thresholds) and for tensors in memory: both say the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from merge_models import merge_arrays

from keeps.numerics.ties import ties


@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([0.1, 0.25, 0.5, 1.0]))
def test_files_and_tensors_get_the_same_update(seed: int, count: int, density: float) -> None:
    draw = np.random.default_rng(seed)
    base = np.zeros(40, dtype=np.float32)  # differences are then the models themselves, bit for bit
    models = draw.standard_normal((count, 40)).astype(np.float32)
    ours = merge_arrays("ties", list(models), base, density=density).values
    theirs = ties([torch.from_numpy(model) for model in models], density)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("zero_sign", "kept"), [("plus", 2.0), ("majority", -2.0)])
def test_they_part_only_where_a_sum_is_exactly_zero(zero_sign: str, kept: float) -> None:
    """The formula for tensors, as the short form of the paper has it, drops what cancels out; that for files elects."""
    one, other = np.array([2.0, -3.0, -1.0], dtype=np.float32), np.array([-2.0, -1.0, -1.0], dtype=np.float32)
    base = np.zeros(3, dtype=np.float32)
    ours = merge_arrays("ties", [one, other], base, density=1.0, zero_sign=zero_sign).values
    theirs = ties([torch.from_numpy(one), torch.from_numpy(other)], 1.0).numpy()
    assert ours.tolist() == [kept, -2.0, -1.0]
    assert theirs.tolist() == [0.0, -2.0, -1.0]
