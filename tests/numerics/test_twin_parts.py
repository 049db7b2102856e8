"""Shared and exclusive parts against independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keeps.numerics import twin
from keeps.numerics.twin import energy_rank, leading, on_grid, shared_expert


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(0, 1000))
def test_the_kept_part_is_the_best_of_its_rank(rows: int, columns: int, rank: int, seed: int) -> None:
    """Eckart and Young: the squared error is the sum of the squared singular values left out (numpy's, not ours)."""
    matrix = random(rows, columns, seed=seed)
    values = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    part = leading(matrix, rank=rank)
    assert part.rank == min(rank, rows, columns)
    assert np.allclose(part.s.numpy(), values[:rank], rtol=1e-5, atol=1e-6)
    error = float((matrix - part.product).double().square().sum())
    assert error == pytest.approx(float((values[rank:] ** 2).sum()), abs=1e-5 * float((values**2).sum()))
    assert part.u.numel() + part.s.numel() + part.v.numel() == (rows + columns + 1) * part.rank


@given(st.integers(2, 8), st.integers(2, 8), st.floats(0.05, 1), st.integers(0, 100))
def test_as_few_triples_are_kept_as_hold_the_energy(rows: int, columns: int, energy: float, seed: int) -> None:
    matrix = random(rows, columns, seed=seed)
    part = leading(matrix, energy=energy)
    squares = np.linalg.svd(matrix.double().numpy(), compute_uv=False) ** 2
    total = squares.sum()
    assert squares[: part.rank].sum() >= energy * total * (1 - 1e-5)
    assert part.rank == 1 or squares[: part.rank - 1].sum() < energy * total * (1 + 1e-5)


@pytest.mark.parametrize("shape", [(150, 400), (300, 130)])
def test_few_triples_of_noise_are_exact(shape: tuple[int, int]) -> None:
    """Where singular values hardly fall a sketch would mix what is kept with what is left out."""
    matrix = random(*shape)
    u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    assert torch.allclose(leading(matrix, rank=13).product.double(), (u[:, :13] * s[:13]) @ vt[:13], atol=1e-4)


@pytest.mark.parametrize("decay", [0.0, 0.01, 0.1])
@pytest.mark.parametrize("shape", [(150, 200), (300, 130)])
def test_a_sketch_is_as_good_as_the_best_also_where_singular_values_hardly_fall(
    shape: tuple[int, int], decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 1 % of the smallest possible error; of noise alone as of a matrix with a few strong directions."""
    u, v = (torch.linalg.qr(random(size, 100, seed=size)).Q for size in shape)
    matrix = (u * torch.exp(-decay * torch.arange(100))) @ v.T + 0.01 * random(*shape)
    values = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    monkeypatch.setattr(twin, "LARGE", 128)
    part = leading(matrix, rank=20)
    error, best = float((matrix - part.product).norm()), float((values[20:] ** 2).sum() ** 0.5)
    assert best * (1 - 1e-4) <= error < 1.01 * best
    assert torch.allclose(part.u.T @ part.u, torch.eye(20), atol=1e-4)
    assert torch.equal(leading(matrix, rank=20).product, part.product)


def test_a_matrix_of_low_rank_is_kept_without_its_rounding() -> None:
    low = random(30, 3) @ random(3, 20, seed=1)
    part = leading(low)
    assert part.rank == 3
    assert torch.allclose(part.product, low, atol=1e-5)
    assert leading(torch.zeros(4, 3)).product.tolist() == torch.zeros(4, 3).tolist()


def test_the_error_never_rises_with_the_rank() -> None:
    matrix = random(12, 20)
    errors = [float((matrix - leading(matrix, rank=rank).product).norm()) for rank in range(1, 13)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5


def test_no_scale_gives_the_bits_of_the_base_the_sign_of_a_zero_included() -> None:
    base = torch.tensor([-0.0, 1.0, 0.1], dtype=torch.bfloat16)
    same = shared_expert(base, [torch.ones(3)], 0.0)
    assert torch.equal(same.view(torch.int16), base.view(torch.int16))
    unmoved = shared_expert(base, [torch.tensor([0.0, 0.0, 1.0])], 0.5)
    assert torch.equal(unmoved[:2].view(torch.int16), base[:2].view(torch.int16))


def test_the_shared_expert_adds_small_differences_in_float32() -> None:
    """A bfloat16 sum would lose them one by one; together they move the weight."""
    base = torch.tensor([1.0], dtype=torch.bfloat16)
    deltas = [torch.tensor([0.001])] * 8
    assert float(shared_expert(base, deltas, 1.0)) == float(torch.tensor(1.008).to(torch.bfloat16)) != 1.0


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=5), st.integers(1, 50))
def test_weights_on_the_grid_sum_to_one_and_are_as_near_as_the_grid_is(values: list[float], steps: int) -> None:
    weights = torch.tensor([values]) / sum(values)
    found = on_grid(weights, steps)
    assert float(found.sum()) == pytest.approx(1, abs=1e-6)
    assert float((found * steps - (found * steps).round()).abs().max()) < 1e-4
    assert float((found - weights).abs().max()) < 1 / steps + 1e-6
    assert torch.equal(on_grid(weights, 0), weights)


def test_energy_of_equal_values_counts_them() -> None:
    assert [energy_rank(torch.ones(4), share) for share in (0.25, 0.26, 0.5, 1.0)] == [1, 2, 2, 4]


def test_out_of_range_is_refused() -> None:
    for wrong in ({"rank": 0}, {"density": 0.0}, {"density": 1.5}, {"energy": 0.0}):
        with pytest.raises(ValueError, match="out of range"):
            leading(torch.ones(2, 2), **wrong)  # type: ignore[arg-type]
