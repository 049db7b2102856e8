"""LoftQ's start against the published algorithm as a plain loop in numpy, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keeps.errors import KeepsError, SettingsError, StatisticsError, TargetError
from keeps.numerics.quantisation import BITS, CODES, Quantiser, loftq_start, normal_float

quantisers = st.builds(lambda bits, code: Quantiser(bits, code, 16), st.sampled_from(BITS), st.sampled_from(CODES))


def gaussian(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return 0.05 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def plain_loop(weight: np.ndarray, rank: int, levels: np.ndarray, block: int, steps: int) -> tuple[Any, Any]:
    """Algorithm 1 of LoftQ in float64, with one matrix for s B A: Q and the product."""
    product = np.zeros_like(weight)
    q = product
    for _ in range(steps):
        blocks = (weight - product).reshape(-1, block)
        top = np.abs(blocks).max(axis=1, keepdims=True)
        q = (levels[np.abs(blocks[:, :, None] / top[:, :, None] - levels).argmin(axis=2)] * top).reshape(weight.shape)
        u, s, vt = np.linalg.svd(weight - q, full_matrices=False)
        product = u[:, :rank] * s[:rank] @ vt[:rank]
    return q, product


@pytest.mark.parametrize("shape", [(24, 32), (48, 16)])
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize(("steps", "scaling"), [(1, 1.0), (5, 1.0), (5, 2.0)])
def test_the_start_is_that_of_the_algorithm_written_out(
    shape: tuple[int, int], bits: int, steps: int, scaling: float
) -> None:
    weight = gaussian(*shape)
    w = weight.double().numpy()
    quantiser = Quantiser(bits, "nf", 16)
    q, product = plain_loop(w, 4, normal_float(bits).double().numpy(), 16, steps)
    start = loftq_start(weight, 4, scaling, quantiser, steps)
    found_q = quantiser.dequantised(start.quantised, weight)
    np.testing.assert_allclose(found_q.numpy(), q, rtol=0, atol=1e-6)
    a, b = start.adapter.a.double(), start.adapter.b.double()
    np.testing.assert_allclose((scaling * b @ a).numpy(), product, rtol=0, atol=1e-6)
    torch.testing.assert_close(a @ a.T, b.T @ b, rtol=1e-4, atol=1e-7)  # split evenly
    assert start.error == pytest.approx(np.linalg.norm(w - q - product) / np.linalg.norm(w), rel=1e-4)
    plain = np.linalg.norm(w - quantiser.rounded(weight).double().numpy()) / np.linalg.norm(w)
    assert start.plain_error == pytest.approx(plain, rel=1e-5)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000), rank=st.integers(1, 8), rows=st.integers(8, 20), quantiser=quantisers,
    scaling=st.sampled_from([0.25, 1.0, 4.0]),
)  # fmt: skip
def test_after_one_alternation_the_error_is_the_rest_of_the_spectrum_and_never_above_quantising_alone(
    seed: int, rank: int, rows: int, quantiser: Quantiser, scaling: float
) -> None:
    weight = gaussian(rows, 11, seed)
    start = loftq_start(weight, rank, scaling, quantiser, 1)
    values = torch.linalg.svdvals((weight - quantiser.rounded(weight)).double())
    rest = float(values[rank:].norm() / weight.double().norm())
    assert start.error == pytest.approx(rest, rel=1e-4, abs=1e-7)
    assert start.error <= start.plain_error * (1 + 1e-6)


@pytest.mark.parametrize("bits", [3, 4])
def test_on_normal_weights_alternating_helps(bits: int) -> None:
    for seed in range(5):
        weight = gaussian(48, 48, seed)
        once, often = (loftq_start(weight, 8, 1.0, Quantiser(bits), steps).error for steps in (1, 5))
        assert often < once < loftq_start(weight, 8, 1.0, Quantiser(bits), 1).plain_error


def test_alternating_need_not_help() -> None:
    weight = gaussian(48, 48, 5)
    once, often = (loftq_start(weight, 8, 1.0, Quantiser(2), steps) for steps in (1, 5))
    assert once.error < often.error, "what the last alternation gives is returned, as published"
    assert often.error < often.plain_error


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_size_of_a_weight_does_not_matter(size: float) -> None:
    weight = gaussian(16, 16)
    usual, odd = (loftq_start(w, 2, 1.0, Quantiser(3), 2) for w in (weight, size * weight))
    assert odd.error == pytest.approx(usual.error, rel=1e-3)
    assert odd.plain_error == pytest.approx(usual.plain_error, rel=1e-5)


def test_a_start_of_a_bfloat16_weight_makes_good_the_rounding_of_its_store_too() -> None:
    weight = gaussian(32, 32).bfloat16()
    quantiser = Quantiser(8)
    start = loftq_start(weight, 8, 1.0, quantiser, 1)
    stored = quantiser.dequantised(start.quantised, weight)
    assert stored.dtype == torch.bfloat16
    left = weight.double() - stored.double() - start.adapter.b.double() @ start.adapter.a.double()
    assert start.error == pytest.approx(float(left.norm() / weight.double().norm()), rel=1e-4)
    assert start.error < start.plain_error


@pytest.mark.parametrize(
    ("weight", "rank", "steps", "error", "words"),
    [
        (torch.zeros(8, 8), 2, 1, StatisticsError, "nothing to correct"),
        (Quantiser(4).rounded(gaussian(8, 8)), 2, 5, StatisticsError, "nothing to correct"),
        (Quantiser(4).rounded(gaussian(8, 8).bfloat16()), 2, 5, StatisticsError, "nothing to correct"),
        (torch.full((8, 8), math.nan), 2, 1, StatisticsError, "NaN"),
        (gaussian(8, 6), 7, 1, TargetError, "rank 7 does not fit"),
        (gaussian(8, 6), 2, 0, SettingsError, "0 alternations"),
    ],
)
def test_a_weight_that_nothing_can_be_done_for_is_refused(
    weight: torch.Tensor, rank: int, steps: int, error: type[KeepsError], words: str
) -> None:
    with pytest.raises(error, match=words):
        loftq_start(weight, rank, 1.0, Quantiser(4), steps)
