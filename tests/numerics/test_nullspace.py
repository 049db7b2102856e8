"""The room beside what data uses, and the bound on a change that stays in it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from keeps.errors import SettingsError, StatisticsError
from keeps.numerics.nullspace import NullSpace, change_bound, null_space, project


def inputs(seed: int = 0, tokens: int = 200, width: int = 12, decay: float = 0.6) -> Tensor:
    """(tokens, width) float64 whose variance falls by ``decay`` from one hidden direction to the next."""
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0]
    scales = decay ** torch.arange(width, dtype=torch.float64)
    return torch.randn(tokens, width, generator=generator, dtype=torch.float64) * scales @ rotation


def moment(x: Tensor) -> Tensor:
    return x.T @ x / len(x)


def change(seed: int, width: int = 12, rank: int = 3, out: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, width, generator=generator), torch.randn(out, rank, generator=generator)


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99, 0.999])
def test_it_leaves_out_the_fewest_directions_that_hold_the_energy(energy: float) -> None:
    x = inputs()
    space = null_space(moment(x), energy)
    shares = torch.linalg.svdvals(x).square()
    shares = shares.cumsum(0) / shares.sum()  # by another way than eigenvectors of C
    assert space.used == int((shares < energy).sum()) + 1
    assert space.made == 0
    assert space.total == pytest.approx(float(x.square().sum()) / len(x))
    assert space.residual <= (1 - energy) * space.total * (1 + 1e-5)
    assert space.residual == pytest.approx(float((x @ space.basis.double()).square().sum()) / len(x), rel=1e-9)
    assert space.largest == pytest.approx(float(torch.linalg.svdvals(x)[space.used] ** 2) / len(x), rel=1e-3)
    identity = space.basis.double().T @ space.basis.double()
    torch.testing.assert_close(identity, torch.eye(space.room, dtype=torch.float64), atol=1e-6, rtol=0)


def test_a_projected_row_reads_nothing_of_the_used_directions() -> None:
    x = inputs()
    space = null_space(moment(x), 0.99)
    used = torch.linalg.svd(x)[2][: space.used]
    rows = change(1)[0]
    projected = project(rows, space.basis)
    assert float((projected.double() @ used.T).abs().max()) < 1e-5
    torch.testing.assert_close(project(projected, space.basis), projected)
    assert projected.dtype == rows.dtype
    assert float(projected.norm()) > 0.1


def test_room_is_made_where_the_energy_asks_for_all_dimensions() -> None:
    white = torch.eye(6)
    space = null_space(white, 0.99, leave=2)
    assert (space.room, space.used, space.made) == (2, 4, 2)
    assert space.residual == pytest.approx(2), "which costs the bound what was given away"
    assert null_space(white, 0.5, leave=2).made == 0


def test_unused_directions_leave_no_energy_at_all() -> None:
    x = inputs(tokens=4)
    space = null_space(moment(x), 0.999999)
    assert space.room >= 8
    assert space.residual <= 1e-6 * space.total
    a, b = change(2)
    assert change_bound(project(a, space.basis), b, 1.0, space) < 1e-4 * change_bound(a, b, 1.0, space)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(0.05, 0.9999),
    st.floats(0.3, 1.0),
    st.floats(1e-3, 1e3),
    st.booleans(),
)
def test_the_bound_holds_for_the_data_it_was_made_of(
    seed: int, energy: float, decay: float, scaling: float, projected: bool
) -> None:
    x = inputs(seed, decay=decay)
    space = null_space(moment(x), energy, leave=2)
    a, b = change(seed)
    if projected:
        a = project(a, space.basis)
    measured = float((x @ a.double().T @ b.double().T).square().sum()) / len(x) * scaling**2
    bound = change_bound(a, b, scaling, space)
    assert measured <= bound * (1 + 1e-9)
    if projected:
        norms = float(torch.linalg.matrix_norm(a.double(), 2) * torch.linalg.matrix_norm(b.double(), 2))
        assert bound <= (scaling * norms) ** 2 * space.residual * (1 + 1e-4) + 1e-9 * bound


def test_what_a_leak_reads_is_counted_in_full() -> None:
    space = null_space(moment(inputs()), 0.9)
    a, b = change(3)
    clean = project(a, space.basis)
    assert change_bound(a, b, 1.0, space) > 4 * change_bound(clean, b, 1.0, space)


@pytest.mark.parametrize("scale", [1e-18, 1e12])
def test_the_scale_of_the_inputs_does_not_matter(scale: float) -> None:
    c = moment(inputs())
    found, scaled = null_space(c, 0.95), null_space(c * scale, 0.95)
    assert found.room == scaled.room
    assert scaled.residual == pytest.approx(found.residual * scale, rel=1e-4)


@pytest.mark.parametrize(
    ("matrix", "options", "error"),
    [
        (torch.eye(3), {"energy": 1.0}, SettingsError),
        (torch.eye(3), {"energy": 0.0}, SettingsError),
        (torch.eye(3), {"energy": 0.9, "leave": 4}, SettingsError),
        (torch.ones(2, 3), {"energy": 0.9}, StatisticsError),
        (torch.zeros(3, 3), {"energy": 0.9}, StatisticsError),
        (torch.full((3, 3), torch.nan), {"energy": 0.9}, StatisticsError),
    ],
)
def test_what_is_no_second_moment_or_no_share_is_refused(matrix: Tensor, options: dict, error: type[Exception]) -> None:
    with pytest.raises(error):
        null_space(matrix, **options)


def test_a_space_says_what_it_uses_and_leaves() -> None:
    space = NullSpace(torch.eye(5)[:, :2], 1.0, 0.1, 0.05)
    assert (space.room, space.used) == (2, 3)
