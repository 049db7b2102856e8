"""Starts from a gradient and from inputs: what they are where the matrix has less rank than is asked for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keeps.errors import StatisticsError, TargetError
from keeps.numerics.starts import gradient_start, principal_inputs


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(4, 10), columns=st.integers(4, 10), seed=st.integers(0, 1000))
def test_the_two_halves_take_different_singular_vectors(rows: int, columns: int, seed: int) -> None:
    g = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    start = gradient_start(g, 2, gamma=4.0)
    c = rows**0.25 / 2
    u, _, vt = torch.linalg.svd(g, full_matrices=False)
    torch.testing.assert_close((start.a @ vt[:2].T).abs(), c * torch.eye(2, dtype=g.dtype), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close((u[:, 2:4].T @ start.b).abs(), c * torch.eye(2, dtype=g.dtype), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_a_gradient_of_lower_rank_still_gives_orthonormal_factors(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    g = torch.outer(torch.randn(shape[0], generator=generator), torch.randn(shape[1], generator=generator))
    start = gradient_start(g, 3, gamma=shape[0] ** 0.5)  # c = 1
    torch.testing.assert_close(start.a @ start.a.T, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(start.b.T @ start.b, torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_start_depends_on_directions_and_not_on_the_size_of_the_gradient(scale: float) -> None:
    g = torch.randn(8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, second = gradient_start(g, 2, gamma=16.0), gradient_start(scale * g, 2, gamma=16.0)
    torch.testing.assert_close(first.a, second.a)
    torch.testing.assert_close(first.b, second.b)


def test_gradients_without_direction_are_refused() -> None:
    with pytest.raises(StatisticsError, match="zero"):
        gradient_start(torch.zeros(6, 6), 2, gamma=16.0)
    with pytest.raises(StatisticsError, match="NaN"):
        gradient_start(torch.full((6, 6), torch.nan), 2, gamma=16.0)
    with pytest.raises(TargetError, match="rank 8 does not fit a layer of 6 x 9"):
        gradient_start(torch.ones(6, 9), 4, gamma=16.0)


def test_directions_of_inputs_are_orthonormal_and_signed_alike_for_x_and_minus_x() -> None:
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions, shares = principal_inputs(x.T @ x, 5)
    torch.testing.assert_close(directions @ directions.T, torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(shares.sum(), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(((x @ directions.T) ** 2).sum(0) / (x**2).sum(), shares)
    assert bool((directions.gather(1, directions.abs().argmax(1, keepdim=True)) > 0).all())
