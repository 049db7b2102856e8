"""KaSA's penalties: against matrices written out in full, and the identity between their two forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from keeps.numerics.singular_form import FORMS, orthogonal_penalty, singular_value_penalty


def factors(rank: int, width: int, height: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rank, width, generator=generator, dtype=torch.float64) / 3,
        torch.randn(height, rank, generator=generator, dtype=torch.float64) / 3,
    )


def written_out(a: Tensor, b: Tensor, form: str) -> float:
    """The formulas of the paper and of its code, with every matrix formed."""
    pairs = [(b.T @ b, a @ a.T), (b @ b.T, a.T @ a)][form == "official"]
    return sum(float(torch.linalg.matrix_norm(m - torch.eye(len(m), dtype=m.dtype))) for m in pairs)


@pytest.mark.parametrize("form", FORMS)
@given(st.integers(1, 5), st.integers(5, 12), st.integers(5, 12), st.integers(0, 99))
def test_both_forms_are_their_formulas(form: str, rank: int, width: int, height: int, seed: int) -> None:
    a, b = factors(rank, width, height, seed)
    found = float(orthogonal_penalty(a, b, form))  # type: ignore[arg-type]
    # the 1e-12 under each root is seen where the norm itself is small
    assert found == pytest.approx(written_out(a, b, form), rel=1e-9, abs=3e-6)


def test_the_sides_differ_by_the_missing_ranks() -> None:
    a, _ = factors(4, 32, 24)
    one, other = a @ a.T - torch.eye(4), a.T @ a - torch.eye(32)
    assert float(other.square().sum()) == pytest.approx(float(one.square().sum()) + 32 - 4)


def test_the_official_form_has_a_floor_where_the_paper_s_is_zero() -> None:
    a, b = torch.eye(4, 32), torch.eye(24, 4)
    assert float(orthogonal_penalty(a, b)) == pytest.approx(2e-6, rel=1e-3), "the root of 1e-12, twice"
    assert float(orthogonal_penalty(a, b, "official")) == pytest.approx(28**0.5 + 20**0.5)


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_is_a_number_at_zero_and_at_orthonormal_factors(form: str) -> None:
    for a, b in ((torch.eye(4, 32), torch.eye(24, 4)), (torch.eye(4, 32), torch.zeros(24, 4))):
        a.requires_grad_()
        b.requires_grad_()
        orthogonal_penalty(a, b, form).backward()  # type: ignore[arg-type]
        assert a.grad is not None
        assert b.grad is not None
        assert not a.grad.any()
        assert not b.grad.any(), "both are stationary: B leaves zero through the task alone"


def test_layers_of_one_shape_are_computed_at_once() -> None:
    pairs = [factors(3, 7, 5, seed) for seed in range(4)]
    a, b = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    expected = torch.stack([orthogonal_penalty(*pair) for pair in pairs])
    torch.testing.assert_close(orthogonal_penalty(a, b), expected)
    gates = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    torch.testing.assert_close(singular_value_penalty(gates), torch.tensor([5.0, 9.0]))
