"""Fusing by regression: identities, and the minimum that an independent least-squares solver finds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keeps.errors import SettingsError
from keeps.numerics.regression_fusion import damped, gram, least_squares_update, regression_fusion


def draws(seed: int, count: int, rows: int, width: int = 5, out: int = 3) -> tuple[list, list]:  # type: ignore[type-arg]
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(rows, width, generator=generator, dtype=torch.float64) for _ in range(count)]
    maps = [torch.randn(width, out, generator=generator, dtype=torch.float64) for _ in range(count)]
    return inputs, maps


@given(st.integers(0, 10_000), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_one_map_is_returned_as_it_is(seed: int, rows: int) -> None:
    inputs, maps = draws(seed, 1, rows)
    assert torch.equal(regression_fusion(maps, [gram(inputs[0])]), maps[0])


@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(2, 4))
@settings(max_examples=30, deadline=None)
def test_equal_maps_are_returned_as_they_are_whatever_their_inputs(seed: int, rows: int, count: int) -> None:
    inputs, maps = draws(seed, count, rows)
    assert torch.equal(regression_fusion([maps[0]] * count, [gram(x) for x in inputs]), maps[0])


@given(st.integers(0, 10_000), st.integers(6, 12), st.integers(2, 4))
@settings(max_examples=30, deadline=None)
def test_it_is_the_published_closed_form_and_the_least_squares_solution(seed: int, rows: int, count: int) -> None:
    inputs, maps = draws(seed, count, rows)
    grams = [gram(x) for x in inputs]
    found = regression_fusion(maps, grams)
    closed = torch.linalg.inv(torch.stack(grams).sum(0)) @ sum(g @ w for g, w in zip(grams, maps, strict=True))
    assert torch.allclose(found, closed, rtol=1e-7, atol=1e-8)
    stacked, wanted = torch.cat(inputs), torch.cat([x @ w for x, w in zip(inputs, maps, strict=True)])
    assert torch.allclose(found, torch.linalg.lstsq(stacked, wanted).solution, rtol=1e-7, atol=1e-8)


@given(st.integers(0, 10_000), st.integers(1, 2))
@settings(max_examples=30, deadline=None)
def test_where_inputs_leave_directions_out_the_squared_error_is_still_the_smallest(seed: int, rows: int) -> None:
    """Two inputs of 1 or 2 rows in 5 dimensions: the sum of the Gram matrices has no inverse."""
    inputs, maps = draws(seed, 2, rows)
    found = regression_fusion(maps, [gram(x) for x in inputs])
    stacked, wanted = torch.cat(inputs), torch.cat([x @ w for x, w in zip(inputs, maps, strict=True)])
    best = torch.linalg.lstsq(stacked, wanted, driver="gelsd").solution
    error, least = (stacked @ found - wanted).square().sum(), (stacked @ best - wanted).square().sum()
    assert float(error) <= float(least) + 1e-8
    aside = torch.linalg.svd(stacked).Vh[2 * rows :]  # directions that no input has
    assert torch.allclose(aside @ found, aside @ torch.stack(maps).mean(0), atol=1e-6), "the mean stands there"


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_fusing_in_turn_is_fusing_at_once(seed: int) -> None:
    inputs, maps = draws(seed, 3, 7)
    grams = [gram(x) for x in inputs]
    first = regression_fusion(maps[:2], grams[:2])
    in_turn = regression_fusion([first, maps[2]], [grams[0] + grams[1], grams[2]])
    assert torch.allclose(in_turn, regression_fusion(maps, grams), rtol=1e-7, atol=1e-8)


def test_what_does_not_belong_together_is_refused() -> None:
    one = torch.eye(2)
    with pytest.raises(SettingsError, match="cannot be fused"):
        regression_fusion([], [])
    with pytest.raises(SettingsError, match="another size"):
        regression_fusion([one, torch.eye(3)], [one, one])
    with pytest.raises(SettingsError, match="another size"):
        regression_fusion([one], [torch.eye(3)])


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 4), st.sampled_from([0.0, 0.1, 0.9, 1.0]))
@settings(max_examples=40, deadline=None)
def test_maps_that_are_added_up_are_fused_alike_by_either_solver(
    seed: int, rows: int, count: int, alpha: float
) -> None:
    """Also where inputs leave directions out, and with damped Gram matrices, which have a shorter way."""
    inputs, maps = draws(seed, count, rows)
    grams = [damped(gram(x), alpha) for x in inputs]
    wanted = regression_fusion(maps, grams)
    total = torch.stack(grams).sum(0)
    right = torch.stack([g @ w for g, w in zip(grams, maps, strict=True)]).sum(0)
    found = least_squares_update(torch.stack(maps).mean(0), total, right, alpha=alpha)
    assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("alpha", [0.5, 0.999999])
def test_an_input_that_is_always_zero_leaves_the_mean(alpha: float) -> None:
    inputs, maps = draws(3, 2, 9)
    for x in inputs:
        x[:, 2] = 0.0
    grams = [damped(gram(x), alpha) for x in inputs]
    mean, total = torch.stack(maps).mean(0), grams[0] + grams[1]
    found = least_squares_update(mean, total, grams[0] @ maps[0] + grams[1] @ maps[1], alpha=alpha)
    assert torch.allclose(found[2], mean[2], atol=1e-9)
    assert torch.allclose(found, regression_fusion(maps, grams), atol=1e-8)
