from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from keeps.numerics.tilting import CELLS, centred, forward_root, moments, scan, symmetric_minimum

SEEDS = st.integers(0, 10_000)


def problem(seed: int, rows: int = 3, tokens: int = 17, spread: float = 1.5) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    log_p = (2 * torch.randn(rows, tokens, dtype=torch.float64, generator=draw)).log_softmax(-1)
    return log_p, spread * torch.randn(2, rows, tokens, dtype=torch.float64, generator=draw)


def divergences(log_p: Tensor, d: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """KL(P_a || P) and KL(P || P_a), from their definitions."""
    p, fused = log_p.exp(), (log_p + alpha[..., None] * d).softmax(-1)
    return (fused * (fused / p).log()).sum(-1), (p * (p / fused).log()).sum(-1)


@settings(max_examples=20)
@given(SEEDS, st.floats(0.01, 3))
def test_the_two_sizes_are_the_two_divergences_and_their_slopes_are_as_stated(seed: int, alpha: float) -> None:
    log_p, d = problem(seed)
    at = torch.full(d.shape[:-1], alpha, dtype=torch.float64)
    found = moments(log_p, centred(log_p, d), at)
    f, r = divergences(log_p, d, at)
    assert torch.allclose(found.f, f, atol=1e-12)
    assert torch.allclose(found.r, r, atol=1e-12)
    near = [divergences(log_p, d, at + step) for step in (1e-5, -1e-5)]
    assert torch.allclose((near[0][0] - near[1][0]) / 2e-5, at * found.variance, atol=1e-6)
    assert torch.allclose((near[0][1] - near[1][1]) / 2e-5, found.mean, atol=1e-6)
    assert (found.variance > 0).all()
    assert (found.mean > 0).all()


@settings(max_examples=20)
@given(SEEDS)
def test_the_scan_gives_both_sizes_at_every_point(seed: int) -> None:
    log_p, d = problem(seed, spread=6.0)
    f, r = scan(log_p, centred(log_p, d), 2.0)
    assert f.shape == (CELLS + 1, 2, 3)
    for number in range(CELLS + 1):
        at = divergences(log_p, d, torch.full(d.shape[:-1], number / 10, dtype=torch.float64))
        assert torch.allclose(f[number], at[0], atol=1e-9)
        assert torch.allclose(r[number], at[1], atol=1e-9)
    assert (f.diff(dim=0) > -1e-12).all()
    assert (r.diff(dim=0) > 0).all()


@settings(max_examples=20)
@given(SEEDS, st.floats(1e-6, 1.9))
def test_the_root_gives_back_the_alpha_that_a_size_was_made_with(seed: int, alpha: float) -> None:
    log_p, d = problem(seed)
    size = divergences(log_p, d, torch.full(d.shape[:-1], alpha, dtype=torch.float64))[0]
    for line in range(2):
        found = forward_root(log_p, d[line : line + 1], size[line], 2.0)
        assert torch.allclose(found, torch.tensor(alpha, dtype=torch.float64), atol=1e-6)


def test_a_size_out_of_reach_gives_the_end_of_the_range_and_none_gives_zero() -> None:
    log_p, d = problem(0)
    reach = -log_p.gather(-1, d[0].argmax(-1, keepdim=True)).squeeze(-1)
    assert (forward_root(log_p, d[:1], reach + 0.1, 50.0) == 50).all()
    assert (forward_root(log_p, d[:1], torch.zeros(3, dtype=torch.float64), 2.0) == 0).all()
    flat = torch.full_like(d, 3.0)
    size = torch.ones(3, dtype=torch.float64)
    assert (forward_root(log_p, flat, size, 2.0) == 0).all()
    assert (symmetric_minimum(log_p, flat, size, size, 2.0) == 0).all()


@settings(max_examples=20)
@given(SEEDS, st.floats(0, 4), st.floats(0, 4))
def test_the_symmetric_minimum_is_that_of_a_fine_search(seed: int, forward: float, backward: float) -> None:
    log_p, d = problem(seed)
    sizes = (torch.full((3,), value, dtype=torch.float64) for value in (forward, backward))
    c, c_back = sizes
    found = symmetric_minimum(log_p, d, c, c_back, 2.0)

    def phi(alpha: Tensor) -> Tensor:
        f, r = divergences(log_p, d, alpha)
        return (f - c).square() + (r - c_back).square()

    fine = torch.stack([phi(torch.full_like(found, number / 200)) for number in range(401)])
    assert (phi(found) <= fine.amin(0) + 1e-12).all()
    inner = (found > 1e-4) & (found < 2 - 1e-4)
    beside = torch.minimum(phi(found - 1e-5), phi(found + 1e-5))
    assert (phi(found) <= beside + 1e-13)[inner].all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masked_tokens_and_tokens_of_tiny_probability_break_nothing(dtype: torch.dtype) -> None:
    log_p, d = problem(1)
    log_p, d = log_p.to(dtype), 30 * d.to(dtype)
    log_p[:, 0], d[..., 0] = -math.inf, 1e4
    log_p[:, 1] = -90.0
    log_p = log_p.log_softmax(-1)
    size = torch.full((3,), 2.0, dtype=dtype)
    for found in (forward_root(log_p, d, size, 2.0), symmetric_minimum(log_p, d, size, size, 2.0)):
        assert found.isfinite().all()
        assert (found > 0).all()
        without = (log_p[:, 1:], d[..., 1:])
        again = forward_root(*without, size, 2.0)
        assert found.dtype == dtype
        assert torch.allclose(forward_root(log_p, d, size, 2.0), again, atol=1e-4)
