"""Thresholds by counting bits against sorting, in pieces as in one."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from keeps.weights.magnitudes import NOTHING, magnitude_bits, without_small
from keeps.weights.merge_method import Chunk, TensorInfo, total_of
from keeps.weights.sampled_thresholds import threshold_stages


def threshold(values: np.ndarray, k: int, piece: int) -> int:
    """The threshold of the ``k`` largest, found piece by piece."""
    info = TensorInfo("w", values.shape, values.size, 1, {})
    base = np.zeros_like(values)
    stats: dict[str, Any] = {}
    for stage in threshold_stages(lambda _: np.array([[k]]), whole_model=True):
        total = total_of(
            stage.measure(Chunk(info, i, values[None, i : i + piece], base[i : i + piece], stats=stats))
            for i in range(0, values.size, piece)
        )
        stats[stage.name] = stage.finish(total, info, stats)
    return int(stats["thresholds"][0, 0])


@given(st.integers(0, 2**16), st.integers(1, 300), st.data())
def test_the_kth_largest_is_found_exactly(seed: int, count: int, data: Any) -> None:
    draw = np.random.default_rng(seed)
    values = (draw.standard_normal(count) * 10.0 ** draw.integers(-30, 30)).astype(np.float32)
    values[draw.random(count) < 0.3] = values[0]  # equal magnitudes
    k = data.draw(st.integers(1, count))
    wanted = np.sort(np.abs(values))[::-1][k - 1]
    for piece in (count, 7):
        assert np.uint32(threshold(values, k, piece)).view(np.float32) == wanted


@given(st.integers(0, 2**16), st.integers(1, 4), st.integers(1, 60))
def test_small_entries_become_zero_and_the_others_keep_their_bits(seed: int, models: int, count: int) -> None:
    draw = np.random.default_rng(seed)
    values = (draw.standard_normal((models, count)) * 10.0 ** draw.integers(-40, 38)).astype(np.float32)
    values[draw.random(values.shape) < 0.2] = draw.choice(np.array([0.0, -0.0, np.inf, -np.inf], dtype=np.float32))
    odd = np.array([0, 1, NOTHING, 0x7F800000], dtype=np.uint32)
    of_an_entry = magnitude_bits(values)[np.arange(models), draw.integers(0, count, models)]
    thresholds = np.where(draw.random(models) < 0.5, of_an_entry, draw.choice(odd, models))[:, None].astype(np.uint32)
    wanted = np.where(magnitude_bits(values) >= thresholds, values, np.float32(0))
    assert without_small(values, thresholds).tobytes() == wanted.tobytes()


def test_nothing_is_asked_for_and_nothing_is_kept() -> None:
    values = np.array([1, -2, 3], np.float32)
    assert threshold(values, 0, 3) == NOTHING
    assert not (magnitude_bits(values) >= np.uint32(NOTHING)).any()


@given(st.floats(width=32, allow_nan=False), st.floats(width=32, allow_nan=False))
def test_bits_order_like_magnitudes(a: float, b: float) -> None:
    left, right = magnitude_bits(np.array([a, b], np.float32))
    assert (left < right) == (abs(a) < abs(b))
