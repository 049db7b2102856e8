"""The closed forms of locate-and-edit methods against the formulas as printed, and their exact identities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from keeps.errors import StatisticsError
from keeps.numerics.editing import (
    Moment,
    SparedKeys,
    in_null_space,
    least_squares,
    null_basis,
    output_size,
    rank_one,
    update_size,
)

SIZES = {"width": st.integers(3, 9), "out": st.integers(1, 6), "n": st.integers(1, 3), "seed": st.integers(0, 10_000)}


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def second_moment(seed: int, width: int) -> Tensor:
    rows = drawn(seed, 4 * width, width)
    return rows.T @ rows / len(rows)


@given(**SIZES)
def test_rome_gives_its_key_the_value_and_has_rank_one(width: int, out: int, n: int, seed: int) -> None:
    del n
    w, k, v = drawn(seed, out, width), drawn(seed + 1, width), drawn(seed + 2, out)
    c = second_moment(seed, width)
    a, b = rank_one(v - w @ k, k, Moment.of(c))
    edited = w + b @ a
    assert (edited @ k - v).norm() <= 1e-5 * v.norm() + 1e-9
    assert torch.linalg.matrix_rank(edited - w) <= 1
    orthogonal = drawn(seed + 3, width)
    direction = torch.linalg.solve(c, k)
    orthogonal -= direction * (orthogonal @ direction) / (direction @ direction)
    assert (edited @ orthogonal - w @ orthogonal).norm() <= 1e-5 * (1 + (v - w @ k).norm())


@given(**SIZES)
def test_rome_as_printed(width: int, out: int, n: int, seed: int) -> None:
    del n
    k, bare, residual = drawn(seed, width), drawn(seed + 1, width), drawn(seed + 2, out)
    inverse = torch.linalg.inv(second_moment(seed, width))
    denominator = (inverse @ k) @ bare
    if abs(denominator) < 1e-3:
        return
    a, b = rank_one(residual, k, Moment.of(second_moment(seed, width)), at=bare)
    wanted = torch.outer(residual, inverse @ k) / denominator
    torch.testing.assert_close(b @ a, wanted, rtol=1e-6, atol=1e-8 * float(wanted.abs().max()))


@given(**SIZES, strength=st.floats(0.01, 100))
def test_memit_as_printed(width: int, out: int, n: int, seed: int, strength: float) -> None:
    k, r, c = drawn(seed, width, n), drawn(seed + 1, out, n), second_moment(seed, width)
    wanted = r @ k.T @ torch.linalg.inv(strength * c + k @ k.T)
    torch.testing.assert_close(r @ least_squares(k, Moment.of(c), strength), wanted, rtol=1e-6, atol=1e-8)


@given(**SIZES)
def test_memit_meets_every_key_as_lambda_goes_to_zero_and_nothing_as_it_grows(
    width: int, out: int, n: int, seed: int
) -> None:
    w, k, r = drawn(seed, out, width), drawn(seed + 1, width, n), drawn(seed + 2, out, n)
    moment = Moment.of(second_moment(seed, width))
    for strength in (0.0, 1e-12):
        change = r @ least_squares(k, moment, strength)
        torch.testing.assert_close((w + change) @ k, w @ k + r, rtol=1e-4, atol=1e-5)
    assert (r @ least_squares(k, moment, 1e12)).norm() < 1e-6 * (1 + r.norm())


def test_emmet_of_one_edit_is_rome_with_one_key() -> None:
    k, r, moment = drawn(1, 6), drawn(2, 4), Moment.of(second_moment(3, 6))
    a, b = rank_one(r, k, moment)
    torch.testing.assert_close(r[:, None] @ least_squares(k[:, None], moment, 0.0), b @ a)


@given(**SIZES, strength=st.floats(0.01, 10), earlier=st.integers(0, 3))
def test_alphaedit_as_printed_and_inside_the_null_space(
    width: int, out: int, n: int, seed: int, strength: float, earlier: int
) -> None:
    k, past, r, c = (
        drawn(seed, width, n),
        drawn(seed + 1, width, earlier),
        drawn(seed + 2, out, n),
        second_moment(4, width),
    )
    values = torch.linalg.eigvalsh(c)
    basis = null_basis(c, float(values[1:3].mean()))  # two directions, or one of equal ones
    p = basis @ basis.T
    change = r @ in_null_space(k, basis, past if earlier else None, strength)
    identity = torch.eye(width, dtype=torch.float64)
    wanted = r @ k.T @ p @ torch.linalg.inv(past @ past.T @ p + k @ k.T @ p + strength * identity)
    torch.testing.assert_close(change, wanted, rtol=1e-6, atol=1e-8)
    assert (change @ (identity - p)).abs().max() < 1e-5


@given(**SIZES, groups=st.lists(st.integers(1, 3), min_size=1, max_size=5))
def test_keys_that_are_spared_group_by_group_give_the_published_update(
    width: int, out: int, n: int, seed: int, groups: list[int]
) -> None:
    del out
    basis = torch.linalg.qr(drawn(seed, width, width))[0][:, : width - 1]
    spared, past = SparedKeys(basis, 0.1), drawn(seed + 1, width, 0)
    p, identity = basis @ basis.T, torch.eye(width, dtype=torch.float64)
    for number, count in enumerate(groups):
        k = drawn(seed + 2 + number, width, n)
        wanted = k.T @ p @ torch.linalg.inv(past @ past.T @ p + k @ k.T @ p + 0.1 * identity)
        torch.testing.assert_close(spared.update(k), wanted, rtol=1e-6, atol=1e-8)
        new = drawn(seed + 50 + number, width, count)
        spared.add(new)
        past = torch.cat([past, new], dim=1)
    assert spared.root.shape[0] == sum(groups)


def test_alphaedit_spares_the_keys_of_earlier_edits() -> None:
    basis = torch.eye(8, dtype=torch.float64)[:, :6]
    k, past, r = drawn(1, 8, 1), drawn(2, 8, 1), drawn(3, 4, 1)
    alone, sparing = in_null_space(k, basis, None, 1e-3), in_null_space(k, basis, past, 1e-3)
    assert (r @ sparing @ past).norm() < 0.01 * (r @ alone @ past).norm()


def test_what_cannot_be_divided_by_is_refused() -> None:
    with pytest.raises(StatisticsError, match="not positive definite"):
        Moment.of(torch.zeros(3, 3))
    with pytest.raises(StatisticsError, match="NaN"):
        Moment.of(torch.full((2, 2), torch.nan))
    with pytest.raises(StatisticsError, match="not symmetric"):
        Moment.of(torch.tensor([[1.0, 5.0], [0.0, 1.0]]))
    moment = Moment.of(torch.eye(3))
    k = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    with pytest.raises(StatisticsError, match="depend on each other"):
        least_squares(k, moment, 0.0)
    with pytest.raises(StatisticsError, match="nothing in common"):
        rank_one(torch.ones(2), torch.tensor([1.0, 0, 0]), moment, at=torch.tensor([0, 1.0, 0]))
    with pytest.raises(StatisticsError, match="null space is empty"):
        null_basis(torch.eye(3), 0.5)


def test_a_ridge_makes_a_singular_covariance_usable() -> None:
    c = torch.zeros(3, 3)
    c[0, 0] = 3.0
    moment = Moment.of(c, ridge=1e-4)
    assert float(moment.divided(torch.eye(3))[1, 1]) == pytest.approx(1e4)


@given(**SIZES)
def test_the_size_of_outputs_is_that_on_the_inputs_that_c_was_formed_from(
    width: int, out: int, n: int, seed: int
) -> None:
    rows, w = drawn(seed, 4 * width, width), drawn(seed + 1, out, width)
    a, b = drawn(seed + 2, n, width), drawn(seed + 3, out, n)
    moment = Moment.of(rows.T @ rows)
    assert output_size(w, moment) == pytest.approx(float((rows @ w.T).norm()), rel=1e-9)
    assert output_size(-2 * w, moment) == pytest.approx(2 * output_size(w, moment), rel=1e-9)
    assert output_size(torch.zeros_like(w), moment) == 0
    assert update_size(a, b, moment) == pytest.approx(float((rows @ (b @ a).T).norm()), rel=1e-9)
    assert update_size(a, torch.zeros_like(b), moment) == 0
