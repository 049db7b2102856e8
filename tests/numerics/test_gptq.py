"""Rounding with GPTQ against rounding that knows the answer another way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keeps.numerics.gptq import BITS, Grid, gptq, nearest, packed, unpacked


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moment(columns: int, seed: int = 1, tokens: int = 400) -> torch.Tensor:
    """H of inputs that are correlated, as those of a layer are."""
    x = random(tokens, columns, seed=seed) @ random(columns, columns, seed=seed + 1)
    return x.T @ x / tokens


def loss(w: torch.Tensor, rounded: torch.Tensor, h: torch.Tensor) -> float:
    """E ||W z - W' z||^2."""
    d = (w - rounded).double()
    return float(((d @ h.double()) * d).sum())


@given(st.integers(0, 500), st.sampled_from(BITS), st.integers(1, 3))
def test_codes_survive_packing(seed: int, bits: int, rows: int) -> None:
    shape = (rows, seed % 17 + 1)
    codes = torch.randint(2**bits, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    data = packed(codes, bits)
    assert data.numel() == -(-codes.numel() * bits // 8)
    assert torch.equal(unpacked(data, bits, shape), codes)
    with pytest.raises(ValueError, match="bytes for"):
        unpacked(torch.cat([data, data]), bits, shape)


@given(st.integers(0, 200), st.sampled_from(BITS), st.sampled_from([3, 8, 64]))
def test_the_grid_is_the_published_formula(seed: int, bits: int, group: int) -> None:
    w = random(3, 20, seed=seed)
    codes, grid = nearest(w, bits, group)
    found = grid.values(codes)
    for row in range(3):
        for start in range(0, 20, group):
            piece = w[row, start : start + group]
            low, high = min(0.0, float(piece.min())), max(0.0, float(piece.max()))
            scale = float(torch.tensor((high - low) / (2**bits - 1)).half())
            zero = min(max(round(-low / scale), 0), 2**bits - 1)
            for offset, value in enumerate(piece.tolist()):
                code = min(max(round(value / scale) + zero, 0), 2**bits - 1)
                near = abs(value / scale - round(value / scale)) > 0.499  # a tie may go either way in float32
                assert near or float(found[row, start + offset]) == pytest.approx(scale * (code - zero), rel=1e-3)


@given(st.integers(0, 50), st.sampled_from([2, 3, 4]))
def test_where_inputs_are_uncorrelated_it_is_plain_rounding(seed: int, bits: int) -> None:
    w = random(4, 12, seed=seed)
    assert torch.equal(gptq(w, torch.eye(12), bits, 6)[0], nearest(w, bits, 6)[0])


@pytest.mark.parametrize("by_size", [True, False])
def test_it_is_optimal_brain_surgery_in_a_fixed_order(by_size: bool) -> None:
    """Independent formula: round a weight, then solve for the best of all that are left; no Cholesky factor."""
    w, h = random(3, 8).double(), moment(8).double()
    h = h + 0.01 * h.diagonal().mean() * torch.eye(8)
    grid = Grid.of(w, 3, 8)
    order = h.diagonal().argsort(descending=True).tolist() if by_size else list(range(8))
    for row in range(3):
        values = w[row].clone()
        for place, index in enumerate(order):
            code = grid.codes(values[index].float()[None].expand(3), index)[row]
            rounded = float(grid.scale[row, 0]) * (float(code) - float(grid.zero[row, 0]))
            rest = order[place + 1 :]
            if rest:  # minimise (d_i, d_r) H (d_i, d_r)^T over d_r with d_i given: d_r = -H_rr^-1 H_ri d_i
                d = rounded - float(values[index])
                step = torch.linalg.solve(h[rest][:, rest], h[rest, index]) * d
                values[rest] -= step
            values[index] = rounded
        found, _ = gptq(w, moment(8), 3, 8, by_size=by_size)
        assert torch.allclose(grid.values(found)[row].double(), values, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_it_beats_plain_rounding_on_correlated_inputs(bits: int) -> None:
    w, h = random(24, 48), moment(48)
    (codes, grid), (plain, plain_grid) = gptq(w, h, bits, 16), nearest(w, bits, 16)
    assert loss(w, grid.values(codes), h) < 0.8 * loss(w, plain_grid.values(plain), h)


def test_inputs_that_are_always_zero_get_zero_and_disturb_nothing() -> None:
    h = moment(6)
    h[2], h[:, 2] = 0, 0
    codes, grid = gptq(random(4, 6), h, 4, 6)
    assert grid.values(codes)[:, 2].tolist() == [0] * 4
    assert bool(grid.values(codes).isfinite().all())


def test_rows_of_zeros_stay_zero_and_bad_input_is_refused() -> None:
    codes, grid = gptq(torch.zeros(2, 4), moment(4), 3, 2)
    assert float(grid.values(codes).abs().max()) < 0.15  # the range from -1 to 1 has zero within half a level
    for h in (torch.eye(3), torch.full((4, 4), torch.nan)):
        with pytest.raises(ValueError, match="second moment"):
            gptq(torch.ones(2, 4), h, 4)
    with pytest.raises(ValueError, match="no grid"):
        Grid.of(torch.ones(2, 2), 5, 2)
