"""CorDA's decomposition: the card's identities, against an independent full SVD and inverse."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keeps.errors import StatisticsError, TargetError
from keeps.numerics.oriented import (
    Damped,
    Mode,
    damped,
    drop_smallest,
    oriented_start,
    oriented_values,
    plain_start,
    singular_part,
)

shapes = st.tuples(st.integers(3, 12), st.integers(3, 12))


def context(width: int, generator: torch.Generator, tokens: int = 40) -> torch.Tensor:
    x = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(width, width, generator=generator, dtype=torch.float64)
    return x.T @ x / tokens


def as_published(weight: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Steps 3 and 4 of the card, literally: invert C', take the full SVD of W C', multiply V^T by the inverse."""
    delta = 0.01
    eye = torch.eye(len(c), dtype=c.dtype)
    while True:
        damped_c = c + delta * c.diagonal().mean() * eye
        inverse = torch.linalg.inv(damped_c)
        if torch.linalg.norm(damped_c @ inverse - eye) < 0.05:
            break
        delta *= 2
    u, s, vt = torch.linalg.svd(weight @ damped_c, full_matrices=False)
    return u, s, vt @ inverse


@settings(max_examples=30, deadline=None)
@given(
    shape=shapes, seed=st.integers(0, 10_000), mode=st.sampled_from(["kpm", "ipm"]), scaling=st.sampled_from([1.0, 2.0])
)
def test_adapter_equals_the_published_components(shape, seed, mode, scaling):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(*shape, generator=generator, dtype=torch.float64)
    c = context(shape[1], generator)
    rank = min(2, min(shape))
    u, s, v_hat = as_published(weight, c)
    columns = slice(-rank, None) if mode == "kpm" else slice(0, rank)
    published = u[:, columns] @ torch.diag(s[columns]) @ v_hat[columns]
    start = oriented_start(weight, damped(c), rank, scaling, mode)
    torch.testing.assert_close(scaling * start.b @ start.a, published, rtol=1e-5, atol=1e-7 * float(weight.abs().max()))
    torch.testing.assert_close(start.values, s[columns], rtol=1e-6, atol=1e-9 * float(s[0]))


@settings(max_examples=30, deadline=None)
@given(
    shape=shapes, seed=st.integers(0, 10_000), mode=st.sampled_from(["kpm", "ipm"]), scaling=st.sampled_from([1.0, 2.0])
)
def test_split_is_exact(shape, seed, mode, scaling):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(*shape, generator=generator)
    start = oriented_start(weight, damped(context(shape[1], generator)), 2, scaling, mode)
    whole = start.residual(weight, scaling).double() + scaling * start.b @ start.a
    assert float((whole - weight).abs().max()) < 1e-4 * float(weight.abs().max())


@pytest.mark.parametrize("shape", [(20, 12), (12, 20), (15, 15)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_white_inputs_make_ipm_pissa_and_kpm_milora(shape, scale):
    torch.manual_seed(1)
    weight = torch.randn(*shape, dtype=torch.float64)
    white = damped(scale * torch.eye(shape[1], dtype=torch.float64))
    u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    cases: tuple[tuple[Mode, slice], ...] = (("ipm", slice(0, 4)), ("kpm", slice(-4, None)))
    for mode, columns in cases:
        reference = u[:, columns] @ torch.diag(s[columns]) @ vt[columns]
        oriented = oriented_start(weight, white, 4, 2.0, mode)
        plain = plain_start(weight, 4, 2.0, largest=mode == "ipm")
        torch.testing.assert_close(2.0 * oriented.b @ oriented.a, reference, rtol=0, atol=1e-5)
        torch.testing.assert_close(2.0 * plain.b @ plain.a, reference, rtol=0, atol=1e-5)


def test_factors_split_the_singular_values_evenly():
    torch.manual_seed(2)
    weight = torch.randn(8, 6, dtype=torch.float64)
    start = oriented_start(weight, damped(torch.eye(6, dtype=torch.float64)), 3, 2.0, "ipm")
    expected = torch.linalg.svdvals(weight * 1.01)[:3] / 2.0  # C' = 1.01 I
    torch.testing.assert_close((start.b**2).sum(0), expected, rtol=1e-9, atol=0)


def test_balance_equalises_norms_and_keeps_the_product():
    torch.manual_seed(3)
    weight, c = torch.randn(9, 7, dtype=torch.float64), context(7, torch.Generator().manual_seed(0)) * 1e4
    plain = oriented_start(weight, damped(c), 3, 1.0, "kpm")
    even = oriented_start(weight, damped(c), 3, 1.0, "kpm", balance=True)
    torch.testing.assert_close(even.b @ even.a, plain.b @ plain.a)
    torch.testing.assert_close(torch.linalg.norm(even.a), torch.linalg.norm(even.b))


def test_scaling_the_covariance_leaves_the_product_unchanged():
    torch.manual_seed(4)
    weight, c = torch.randn(9, 7, dtype=torch.float64), context(7, torch.Generator().manual_seed(1))
    one = oriented_start(weight, damped(c), 3, 1.0, "kpm")
    other = oriented_start(weight, damped(c * 256), 3, 1.0, "kpm")
    torch.testing.assert_close(one.b @ one.a, other.b @ other.a)


@pytest.mark.parametrize("rank", [1, 2, 8])
@pytest.mark.parametrize("shape", [(600, 240), (240, 600)])
def test_a_few_loud_directions_do_not_blur_the_largest_components(shape, rank):
    generator = torch.Generator().manual_seed(8)
    weight = torch.randn(*shape, generator=generator, dtype=torch.float64)
    x = torch.randn(3000, shape[1], generator=generator, dtype=torch.float64)
    loud = torch.randn(4, shape[1], generator=generator, dtype=torch.float64) * torch.logspace(2, 0.5, 4)[:, None]
    x[::20] += loud[torch.arange(150) % 4]
    context = damped(x.T @ x / 3000)  # its condition is near the largest that damping allows
    u, s, vt = torch.linalg.svd(weight @ context.matrix, full_matrices=False)
    exact = u[:, :rank] @ torch.diag(s[:rank]) @ torch.linalg.solve(context.matrix, vt[:rank].T).T
    start = oriented_start(weight, context, rank, 1.0, "ipm")
    assert torch.linalg.norm(start.b @ start.a - exact) < 1e-5 * torch.linalg.norm(exact)


@pytest.mark.parametrize("shape", [(10, 6), (6, 10)])
def test_dropping_components_is_best_in_the_covariance_norm(shape):
    torch.manual_seed(5)
    weight, c = torch.randn(*shape, dtype=torch.float64), damped(context(shape[1], torch.Generator().manual_seed(2)))
    plain = Damped(torch.eye(shape[1], dtype=torch.float64), 0.0, 0.0)

    def error(dropped: torch.Tensor) -> float:
        return float(torch.linalg.norm((weight - dropped) @ c.matrix))

    oriented = error(drop_smallest(weight, c, 2))
    expected = float((oriented_values(weight, c)[-2:] ** 2).sum().sqrt())  # Eckart-Young
    assert oriented == pytest.approx(expected, rel=1e-6)
    assert oriented < error(drop_smallest(weight, plain, 2))


def test_small_singular_values_survive_a_spectrum_of_ten_decades():
    torch.manual_seed(6)
    u, _ = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))
    s = torch.logspace(0, -10, 12, dtype=torch.float64)
    left, values, right = singular_part(u @ torch.diag(s) @ v.T, 3, largest=False)
    torch.testing.assert_close(values, s[-3:], rtol=1e-4, atol=0)
    torch.testing.assert_close((left.T @ u[:, -3:]).abs(), torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-4)
    assert right.shape == (12, 3)


def test_damping_rises_where_float32_cannot_invert():
    c = torch.zeros(400, 400)
    c[0, 0] = 1e8  # one loud direction: cond(C') is 400 / delta
    found = damped(c, dtype=torch.float32)
    assert found.inverse_error < 0.05
    assert damped(c).delta == 0.01


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (torch.full((3, 3), torch.nan), "NaN"),
        (torch.zeros(3, 3), "all zero"),
        (torch.ones(3, 4), "square"),
    ],
)
def test_what_is_no_covariance_is_refused(matrix, words):
    with pytest.raises(StatisticsError, match=words):
        damped(matrix)


@pytest.mark.parametrize("rank", [0, 5])
def test_rank_outside_the_layer_is_refused(rank):
    with pytest.raises(TargetError, match="rank"):
        oriented_start(torch.randn(4, 6), damped(torch.eye(6)), rank, 1.0, "kpm")


def test_covariance_of_another_width_is_refused():
    with pytest.raises(StatisticsError, match="features"):
        oriented_start(torch.randn(4, 6), damped(torch.eye(5)), 2, 1.0, "kpm")
