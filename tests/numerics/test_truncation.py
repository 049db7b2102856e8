"""Removing the smallest components: against a full decomposition, for every shape of weight."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from keeps.errors import TargetError
from keeps.numerics.truncation import least_used_part, removed_count, removed_part, rounding_norm

SHAPES = [(30, 30), (40, 18), (18, 40), (20, 22)]


def random_weight(rows: int, columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(rows * columns)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("scaling", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_rank_and_norms_are_those_of_the_truncated_decomposition(shape: tuple[int, int], scaling: float) -> None:
    weight, rank = random_weight(*shape, torch.float64), 4
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    kept = min(shape) - rank
    part = removed_part(weight, rank, scaling)
    world = part.residual(weight, scaling)
    torch.testing.assert_close(world, (u[:, :kept] * s[:kept]) @ vt[:kept], atol=1e-10, rtol=1e-10)
    assert int(torch.linalg.matrix_rank(world)) == kept
    difference = weight - world
    assert float(torch.linalg.matrix_norm(difference, 2)) == pytest.approx(float(s[kept]), rel=1e-8)
    assert float(difference.square().sum()) == pytest.approx(float(s[kept:].square().sum()), rel=1e-8)
    torch.testing.assert_close(part.values, s[kept:], rtol=1e-8, atol=0)
    torch.testing.assert_close(scaling * part.b @ part.a, difference, atol=1e-12, rtol=1e-10)
    assert torch.allclose(part.a.norm(dim=1), part.b.norm(dim=0)), "the root of each value is in both factors"


@pytest.mark.parametrize("shape", SHAPES)
def test_the_official_rule_keeps_as_many_components_as_inputs_less_the_rank(shape: tuple[int, int]) -> None:
    weight, rank = random_weight(*shape, torch.float64), 4
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    kept = shape[1] - rank  # a slice may reach beyond the end: then all is kept
    part = removed_part(weight, rank, 1.0, "official")
    expected = (u[:, :kept] * s[:kept]) @ vt[:kept]
    torch.testing.assert_close(part.residual(weight, 1.0), expected, atol=1e-10, rtol=1e-10)
    assert (part.a.shape, part.b.shape) == ((rank, shape[1]), (shape[0], rank)), "zeros fill what is not removed"


@given(st.integers(2, 60), st.integers(2, 60), st.data())
def test_the_rules_agree_unless_a_weight_is_wider_than_high(rows: int, columns: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, min(rows, columns) - 1))
    official = removed_count(rows, columns, rank, "official")
    assert removed_count(rows, columns, rank) == rank
    assert official == rank if rows >= columns else official == max(0, rank - (columns - rows))


@pytest.mark.parametrize("rank", [0, 18, 40])
def test_a_rank_that_leaves_nothing_is_refused(rank: int) -> None:
    with pytest.raises(TargetError, match=f"{rank} components cannot be removed .* choose a rank from 1 to 17"):
        removed_part(random_weight(40, 18), rank, 1.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_refused(bad: float) -> None:
    weight = random_weight(18, 40)
    weight[3, 3] = bad
    with pytest.raises(TargetError, match="NaN or infinity"):
        removed_part(weight, 4, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(200, 200), (300, 120), (120, 300)])
def test_truncating_twice_is_refused(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = random_weight(*shape).to(dtype)
    world = removed_part(weight, 24, 2.0).residual(weight, 2.0)
    assert world.dtype == dtype
    with pytest.raises(TargetError, match=r"no larger than its rounding.*not truncated before"):
        removed_part(world, 24, 2.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(200, 200), (400, 100), (100, 400)])
def test_the_rounding_norm_is_that_of_a_rounding(shape: tuple[int, int], dtype: torch.dtype) -> None:
    exact = random_weight(*shape, torch.float64)
    error = float(torch.linalg.matrix_norm(exact - exact.to(dtype).double(), 2))
    assert error < rounding_norm(exact.to(dtype)) < 3 * error


@pytest.mark.parametrize("shape", SHAPES)
def test_least_used_directions_lose_less_output_than_any_other_projection(shape: tuple[int, int]) -> None:
    weight, rank = random_weight(*shape, torch.float64), 4
    inputs = random_weight(shape[1], 200, torch.float64) * torch.logspace(2, -2, shape[1])[:, None]
    part = least_used_part(weight, inputs @ inputs.T, rank, 2.0)
    lost = float((2.0 * part.b @ part.a @ inputs).square().sum())
    values = torch.linalg.svdvals(weight @ inputs)  # Eckart and Young: no W' of this rank loses less
    assert lost == pytest.approx(float(values[max(len(values) - rank, 0) :].square().sum()), rel=1e-6, abs=1e-6)
    generator = torch.Generator().manual_seed(0)
    other = torch.linalg.qr(torch.randn(shape[0], rank, generator=generator, dtype=torch.float64)).Q
    assert lost < float((other @ (other.T @ weight) @ inputs).square().sum())
    torch.testing.assert_close(part.b.norm(dim=0), part.a.norm(dim=1))


def test_least_used_directions_refuse_what_leaves_nothing_and_what_is_not_finite() -> None:
    weight, covariance = random_weight(6, 5), torch.eye(5)
    with pytest.raises(TargetError, match="cannot be removed"):
        least_used_part(weight, covariance, 6, 1.0)
    with pytest.raises(TargetError, match="NaN"):
        least_used_part(weight, covariance * float("nan"), 2, 1.0)
