"""The mean of those that agree, against the definition entry by entry; whatever the signs of the weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.weights.consensus import agreeing_mean, elected_positive


@pytest.mark.parametrize("normalize", [True, False])
@given(seed=st.integers(0, 2**16), models=st.integers(1, 4), positive=st.booleans())
def test_agreeing_entries_are_averaged_by_their_weights(
    normalize: bool, seed: int, models: int, positive: bool
) -> None:
    draw = np.random.default_rng(seed)
    weights = draw.choice(np.array([0.25, 0.5, 2.0] if positive else [0.5, -0.5, 1.0], dtype=np.float32), (models, 1))
    values = draw.integers(-2, 3, (models, 30)).astype(np.float32)  # with zeros, which agree with nobody
    weighted = values * weights
    elected = elected_positive(weighted, bool(seed % 2))
    found = agreeing_mean(weights, weighted, elected, normalize)
    for place in range(30):
        sign = 1 if elected[place] else -1
        agree = [m for m in range(models) if weighted[m, place] * sign > 0]
        total = sum(float(weighted[m, place]) for m in agree)
        divisor = sum(float(weights[m, 0]) for m in agree) if normalize else 1.0
        assert found[place] == pytest.approx(total / (divisor or 1.0), rel=1e-5)
