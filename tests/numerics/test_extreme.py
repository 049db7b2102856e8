"""The largest and smallest singular triplets, against a full decomposition in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from keeps.numerics import extreme
from keeps.numerics.extreme import extreme_part
from keeps.numerics.oriented import plain_start


def matrix(rows: int, columns: int, spread: float, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random singular vectors, and values that fall evenly in their logarithm from 1 to 1 / ``spread``."""
    generator = torch.Generator().manual_seed(seed)
    side = min(rows, columns)
    left = torch.linalg.qr(torch.randn(rows, side, generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(columns, side, generator=generator, dtype=torch.float64)).Q
    values = spread ** -torch.linspace(0, 1, side, dtype=torch.float64)
    return ((left * values) @ right.T).to(dtype)


def reference(m: Tensor, rank: int, largest: bool) -> tuple[Tensor, Tensor]:
    u, s, vt = torch.linalg.svd(m.double(), full_matrices=False)
    part = slice(0, rank) if largest else slice(-rank, None)
    return u[:, part] * s[part] @ vt[part], s[part]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("shape", [(160, 160), (130, 300), (300, 130)])
@pytest.mark.parametrize("spread", [3.0, 100.0, 1e4])
def test_the_part_is_that_of_a_full_decomposition(
    shape: tuple[int, int], largest: bool, spread: float, dtype: torch.dtype
) -> None:
    m = matrix(*shape, spread, dtype=dtype)
    found = extreme_part(m, 4, largest=largest)
    assert found is not None
    left, values, right = found
    product, wanted = reference(m, 4, largest)
    assert left.shape == (shape[0], 4)
    assert right.shape == (shape[1], 4)
    torch.testing.assert_close(values, wanted, rtol=1e-7, atol=0)
    assert float(torch.linalg.norm(left * values @ right.T - product) / torch.linalg.norm(product)) < 2e-5
    eye = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(right.T @ right, eye, rtol=0, atol=1e-5)
    torch.testing.assert_close(left.T @ left, eye, rtol=0, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), largest=st.booleans(), tall=st.booleans())
def test_random_matrices_whose_values_lie_close_together(seed: int, largest: bool, tall: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    m = torch.randn(*((200, 120) if tall else (120, 200)), generator=generator)
    found = extreme_part(m, 3, largest=largest)
    if found is not None:
        left, values, right = found
        product, wanted = reference(m, 3, largest)
        torch.testing.assert_close(values, wanted, rtol=1e-6, atol=0)
        assert float(torch.linalg.norm(left * values @ right.T - product) / torch.linalg.norm(product)) < 1e-3


@pytest.mark.parametrize("shape", [(160, 160), (300, 130)])
@pytest.mark.parametrize("spread", [1e7, 1e9])
def test_the_smallest_of_many_decades_are_free_of_the_largest(shape: tuple[int, int], spread: float) -> None:
    m = matrix(*shape, spread, dtype=torch.float64)
    found = extreme_part(m, 4, largest=False, still=1e-6)
    assert found is not None
    left, values, right = found
    product, wanted = reference(m, 4, largest=False)
    torch.testing.assert_close(values, wanted, rtol=1e-5, atol=0)
    assert float(torch.linalg.norm(left * values @ right.T - product) / torch.linalg.norm(product)) < 1e-5


def test_it_gives_the_same_bytes_twice_and_touches_no_random_numbers() -> None:
    m, state = matrix(160, 160, 10.0), torch.get_rng_state()
    first, second = extreme_part(m, 4, largest=True), extreme_part(m, 4, largest=True)
    assert first is not None
    assert second is not None
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_program_s_precision_of_products_is_given_back() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        extreme_part(matrix(130, 130, 10.0), 4, largest=True)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_what_it_cannot_do_is_left_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    assert extreme_part(matrix(60, 60, 10.0), 4, largest=True) is None, "too small to gain"
    singular = matrix(160, 160, 10.0)
    singular[:, 0] = 0
    assert extreme_part(singular, 4, largest=False) is None
    assert extreme_part(matrix(160, 160, 1e9), 4, largest=False) is None, "float32 goes through the Gram matrix"
    assert extreme_part(matrix(160, 160, 1e14, dtype=torch.float64), 4, largest=False) is None
    assert extreme_part(torch.zeros(160, 160), 4, largest=True) is None
    monkeypatch.setattr(extreme, "CYCLES", 0)
    assert extreme_part(matrix(160, 160, 10.0), 4, largest=True) is None


@pytest.mark.parametrize("largest", [True, False])
def test_the_start_is_the_same_whether_the_fast_way_is_taken_or_not(
    monkeypatch: pytest.MonkeyPatch, largest: bool
) -> None:
    import keeps.numerics.oriented as oriented

    weight = matrix(140, 300, 50.0)
    fast = plain_start(weight, 4, 2.0, largest=largest)
    monkeypatch.setattr(oriented, "extreme_part", lambda *_, **__: None)
    slow = plain_start(weight, 4, 2.0, largest=largest)
    torch.testing.assert_close(fast.b @ fast.a, slow.b @ slow.a, rtol=1e-4, atol=1e-5 * float(slow.values[0]))
