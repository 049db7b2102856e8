"""Precisions of Fisher merging: the floor, the coefficient, the norm."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from keeps.numerics.fisher import norm_of, precision, share_above

SIZES = st.floats(0, 100, width=32)


@given(arrays(np.float32, 6, elements=SIZES), st.floats(0.125, 4, width=32), st.floats(0, 2, width=32))
def test_a_precision_is_the_raised_information_times_the_coefficient_over_the_norm(
    fisher: np.ndarray, coefficient: float, floor: float
) -> None:
    found = precision(torch.from_numpy(fisher), coefficient, floor=floor, norm=8.0)
    assert np.allclose(found.numpy(), np.maximum(fisher, floor) * coefficient / 8, rtol=1e-6)


def test_the_norm_is_over_all_tensors_and_never_zero() -> None:
    tensors = [torch.full((2, 3), 2.0), torch.full((5,), -1.0)]
    assert abs(norm_of(tensors) - np.sqrt(6 * 4 + 5)) < 1e-12
    assert norm_of([torch.zeros(3)]) == 1.0


@given(arrays(np.float32, (3, 4), elements=SIZES), st.floats(0, 100, width=32))
def test_the_share_above_is_over_all_tensors(fisher: np.ndarray, floor: float) -> None:
    parts = [torch.from_numpy(fisher[:1]), torch.from_numpy(fisher[1:])]
    assert share_above(parts, floor) == np.count_nonzero(fisher > floor) / 12
