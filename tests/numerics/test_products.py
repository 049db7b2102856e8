"""Norms of a product through its factors, against the product itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keeps.numerics.products import core, spectral_norm, squared_norm


def factors(seed: int, rank: int = 3, out: int = 7, width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(rank, width), draw(out, rank)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_norms_are_those_of_the_product_whatever_its_shape(seed: int, rank: int, out: int, width: int) -> None:
    a, b = factors(seed, rank, out, width)
    product = b @ a
    assert float(squared_norm(a, b)) == pytest.approx(float(product.square().sum()), rel=1e-9)
    assert spectral_norm(a, b) == pytest.approx(float(torch.linalg.svdvals(product)[0]), rel=1e-9)
    found, wanted = torch.linalg.svdvals(core(a, b)), torch.linalg.svdvals(product)
    torch.testing.assert_close(found[: min(rank, out, width)], wanted[: min(rank, out, width)])


def test_the_distance_to_a_start_has_the_gradient_of_the_full_difference() -> None:
    a, b = (value.requires_grad_() for value in factors(0))
    start_a, start_b = factors(1, rank=2)
    distance = squared_norm(torch.cat([a, start_a]), torch.cat([b, -start_b], dim=1))
    found = torch.autograd.grad(distance, (a, b))
    full = (b @ a - start_b @ start_a).square().sum()
    torch.testing.assert_close(distance, full)
    for mine, other in zip(found, torch.autograd.grad(full, (a, b)), strict=True):
        torch.testing.assert_close(mine, other)
