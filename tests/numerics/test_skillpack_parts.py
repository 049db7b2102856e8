"""Packed differences against independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from keeps.numerics.skillpack import banded, clipped, decoded, low_rank, sparse


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(columns: int, tokens: int = 600, seed: int = 3) -> torch.Tensor:
    return random(tokens, columns, seed=seed) @ random(columns, columns, seed=seed + 1)


def decaying(rows: int, columns: int) -> torch.Tensor:
    u, v = (torch.linalg.qr(random(size, 16, seed=size)).Q for size in (rows, columns))
    return (u * torch.exp(-0.3 * torch.arange(16))) @ v.T


def test_sparse_keeps_the_largest_entries_and_nothing_else() -> None:
    delta = random(10, 8)
    found = decoded("sparse", sparse(delta, 0.25), (10, 8))
    order = np.argsort(-np.abs(delta.numpy().ravel()))
    assert set(np.flatnonzero(found.numpy().ravel())) == set(order[:20])
    assert torch.allclose(found[found != 0], delta[found != 0], rtol=1e-3)
    assert torch.equal(decoded("sparse", sparse(delta.half().float(), 1.0), (10, 8)), delta.half().float())


def test_full_rank_in_sixteen_bits_is_the_difference_to_their_rounding() -> None:
    delta = 0.01 * random(24, 16)
    for parts, kind, bands in (
        (low_rank(delta), "low_rank", ()),
        (banded(delta, [(16, 16)], torch.eye(16)), "banded", [(16, 16)]),
    ):
        assert float((decoded(kind, parts, (24, 16), bands) - delta).norm() / delta.norm()) < 1e-3


@pytest.mark.parametrize("group", [5, 128])
@pytest.mark.parametrize("bands", [[(4, 8), (8, 4), (50, 2)], [(2, 8), (14, 3)], [(16, 1)]])
def test_bands_decode_to_the_sum_of_what_each_part_says(bands: list[tuple[int, int]], group: int) -> None:
    """Decoded by hand from the bytes: bits by numpy, levels by the formula, one triple at a time."""
    delta = decaying(20, 24)
    parts = banded(delta, bands, inputs(24).T @ inputs(24), group=group)
    s, start, wanted = parts["s"].double().numpy(), 0, np.zeros((20, 24))

    def matrix(name: str, bits: int, rows: int, columns: int) -> np.ndarray:
        stream = np.unpackbits(parts[f"{name}.codes"].numpy())
        codes = [int("".join(map(str, stream[bits * i : bits * (i + 1)])), 2) for i in range(rows * columns)]
        grid = np.array(codes, dtype=float).reshape(rows, columns)
        for row in range(rows):
            for column in range(columns):
                scale, zero = (float(parts[f"{name}.{part}"][row, column // group]) for part in ("scale", "zero"))
                grid[row, column] = scale * (grid[row, column] - zero)
        return grid

    for number, (count, bits) in enumerate(clipped(bands, len(s))):
        v, u = matrix(f"{number}.v", bits, count, 24), matrix(f"{number}.u", bits, 20, count)
        for triple in range(count):
            wanted += s[start + triple] * np.outer(u[:, triple], v[triple])
        start += count
    found = decoded("banded", parts, (20, 24), bands, group)
    assert np.allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_rounding_against_the_inputs_beats_the_nearest_levels_on_other_inputs(bits: int) -> None:
    delta, seen, other = decaying(32, 40), inputs(40), inputs(40, seed=3)[:300] + 0.05 * random(300, 40, seed=8)
    error = {}
    for rounding in ("gptq", "nearest"):
        parts = banded(delta, [(16, bits)], seen.T @ seen, group=16, rounding=rounding)  # type: ignore[arg-type]
        found = decoded("banded", parts, (32, 40), [(16, bits)], 16)
        error[rounding] = float((other @ (delta - found).T).square().sum())
    assert error["gptq"] < 0.8 * error["nearest"]


def test_the_second_factor_corrects_the_first() -> None:
    """U is rounded against what the rounded V makes of the inputs: better than against the inputs of the exact V."""
    from keeps.numerics.gptq import gptq
    from keeps.numerics.twin import leading

    delta, x = decaying(64, 40), inputs(40, tokens=2000)
    h = (x.T @ x).double()
    part = leading(delta, rank=16)
    parts = banded(delta, [(16, 2)], h, group=40)
    ours = decoded("banded", parts, (64, 40), [(16, 2)], 40)
    codes, grid = gptq(part.v.T.contiguous(), h, 2, 40)
    exact = part.s.double()[:, None] * part.v.double().T
    codes_u, grid_u = gptq(part.u, exact @ h @ exact.T, 2, 40)
    other = (grid_u.values(codes_u) * part.s) @ grid.values(codes)
    errors = [float((x @ (delta - found).T).square().sum()) for found in (ours, other)]
    assert errors[0] < 1.1 * errors[1]


def test_bands_are_clipped_and_nonsense_is_refused() -> None:
    assert clipped([(3, 8), (2, 4)], 3) == [(3, 8)]
    delta = random(6, 5)
    with pytest.raises(ValueError, match="no band"):
        banded(delta, [], torch.eye(5))
    with pytest.raises(ValueError, match="no second moment"):
        banded(delta, [(2, 4)], None)
    with pytest.raises(ValueError, match="no kind"):
        decoded("other", {}, (2, 2))
    parts = low_rank(delta)
    with pytest.raises(ValueError, match="for"):
        decoded("low_rank", parts, (5, 6))
    with pytest.raises(ValueError, match="outside"):
        decoded("sparse", {"index": torch.tensor([99]), "values": torch.ones(1)}, (2, 2))
