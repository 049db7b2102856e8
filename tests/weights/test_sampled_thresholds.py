"""Thresholds from a sample and one pass against sorting, and what happens where the sample misleads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keeps.weights.sampled_thresholds as sampled
from keeps.weights.merge_method import Chunk, TensorInfo, total_of
from keeps.weights.sampled_thresholds import threshold_stages


def found(values: np.ndarray, ranks: list[int], piece: int, sample: slice) -> tuple[np.ndarray, list[str]]:
    """Thresholds of the ``ranks`` largest as floats, and the stages that were needed."""
    info = TensorInfo("w", values.shape, values.size, 1, {})
    base = np.zeros_like(values)
    stats: dict[str, Any] = {}
    made = []
    for stage in threshold_stages(lambda _: np.array([ranks])):
        if not stage.needed(stats):
            continue
        part = values[sample] if stage.sampled else values
        pieces = (
            Chunk(info, i, part[None, i : i + piece], base[i : i + piece][: len(part) - i], stats=stats)
            for i in range(0, part.size, piece)
        )
        stats[stage.name] = stage.finish(total_of(map(stage.measure, pieces)), info, stats)
        made.append(type(stage).__name__)
    return stats["thresholds"][0].view(np.float32), made


ONE_PASS = ["SampledBracket", "BracketedThresholds"]
ALL_PASSES = [*ONE_PASS, "UpperBits", "LowerBits"]


@given(st.integers(0, 2**16), st.integers(1, 400), st.integers(1, 9), st.data())
def test_the_kth_largest_is_found_exactly_whatever_the_sample(seed: int, count: int, step: int, data: Any) -> None:
    draw = np.random.default_rng(seed)
    values = (draw.standard_normal(count) * 10.0 ** draw.integers(-30, 30)).astype(np.float32)
    values[draw.random(count) < 0.3] = values[0]  # equal magnitudes
    ranks = [data.draw(st.integers(1, count)) for _ in range(2)]
    wanted = np.sort(np.abs(values))[::-1][np.array(ranks) - 1]
    for piece in (count, 7):
        np.testing.assert_array_equal(found(values, ranks, piece, slice(None, None, step))[0], wanted)


def test_a_fair_sample_needs_one_pass_over_the_tensor() -> None:
    values = np.random.default_rng(0).standard_normal(60_000).astype(np.float32)
    thresholds, made = found(values, [12_000, 600], 4096, slice(None, None, 16))
    np.testing.assert_array_equal(thresholds, np.sort(np.abs(values))[::-1][[11_999, 599]])
    assert made == ONE_PASS


def test_a_sample_of_the_smallest_alone_misses_and_everything_is_counted() -> None:
    values = np.sort(np.random.default_rng(0).random(60_000).astype(np.float32))
    thresholds, made = found(values, [12_000], 4096, slice(0, 4096))
    assert thresholds == values[-12_000]
    assert made == ALL_PASSES


def test_too_many_equal_magnitudes_are_counted_and_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled, "MOST", 1000)
    values = np.ones(5000, dtype=np.float32)
    thresholds, made = found(values, [100], 512, slice(0, 500))
    assert thresholds == 1
    assert made == ALL_PASSES


def test_of_a_tensor_that_did_not_move_everything_is_at_the_threshold() -> None:
    thresholds, made = found(np.zeros(5000, dtype=np.float32), [100], 512, slice(None))
    assert thresholds == 0
    assert made == ONE_PASS


def test_nothing_asked_for_keeps_nothing() -> None:
    thresholds, _ = found(np.ones(50, dtype=np.float32), [0], 50, slice(None))
    assert np.isnan(thresholds).all()  # the bits that no magnitude reaches
