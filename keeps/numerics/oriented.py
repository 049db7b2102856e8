"""Context-oriented singular value decomposition of a weight, and the adapter cut from it.

    W C' = U S V^T,   V^ = C'^-1 V,   W = U S V^^T exactly          (CorDA, arXiv:2406.05223, eq. 1-3)

C' is the damped covariance. The published way inverts C' and takes a full SVD. Two identities make
that needless: V^^T = S^-1 U^T W, so that the part kept by r columns of U is U_r U_r^T W without any
inverse; and the singular vectors of the short side come from a symmetric eigenproblem. Both are done
in float64, because the spectrum of W C' spans five to eight decades.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from keeps.errors import StatisticsError, TargetError
from keeps.numerics.extreme import extreme_part

Mode = Literal["kpm", "ipm"]
MODES = ("kpm", "ipm")
START_DAMPING = 0.01  # delta of the first try, relative to the mean of diag(C)
INVERSE_TOLERANCE = 0.05  # accept C' when ||C' C'^-1 - I||_F is below this
ORIENTED_STILL = 1e-6  # sine of the angle by which components found by iteration may be off
GRAM_LIMIT = 1e-7  # below this ratio of singular values, a Gram matrix in float64 loses the small ones


@dataclass(frozen=True)
class Damped:
    """C' = C + delta * mean(diag C) * I, with the error of its inverse (or a proven bound of it)."""

    matrix: Tensor  # (features, features)
    delta: float
    inverse_error: float


@dataclass(frozen=True)
class AdapterStart:
    """Where training starts: W = residual + scaling * B A.

    Attributes:
        a: (rank, in).
        b: (out, rank).
        values: the rank singular values of W C' that were chosen, descending.
        delta: damping used.
        inverse_error: Frobenius error of the inverse of C', or a bound of it.
        energy: sum of the squares of all singular values of W C'; 0 where it is not known.
    """

    a: Tensor
    b: Tensor
    values: Tensor
    delta: float = 0.0
    inverse_error: float = 0.0
    energy: float = 0.0

    def residual(self, weight: Tensor, scaling: float) -> Tensor:
        """W_res = W - scaling * B A, formed in float64 and returned in the weight's dtype."""
        product = self.b.double() @ self.a.double()
        return (weight.double() - scaling * product).to(weight.dtype)

    def cut(self, rank: int, *, largest: bool, balance: bool = False) -> AdapterStart:
        """The start of fewer components: the ``rank`` largest or smallest of these."""
        part = slice(0, rank) if largest else slice(len(self.values) - rank, None)
        a, b = self.a[part], self.b[:, part]
        if balance:
            a, b = balanced(a, b)
        return replace(self, a=a, b=b, values=self.values[part])


def damped(covariance: Tensor, *, dtype: torch.dtype = torch.float64) -> Damped:
    """The published damping loop: double delta from 0.01 until C' can be inverted to 0.05.

    In float64 the error of the inverse is bounded by n * eps * cond(C'), and cond(C') by
    n (1 + delta) / delta for a positive semi-definite C; where that proves the tolerance, the
    inverse itself is not formed. In float32 (what the official code uses) it always is.

    Args:
        covariance: C, (features, features), symmetric positive semi-definite.
        dtype: float64 or float32.

    Raises:
        StatisticsError: C is not square, not finite, all zero, or cannot be inverted at any damping.
    """
    check_covariance(covariance)
    matrix = covariance.to(dtype)
    n = matrix.shape[0]
    mean_diagonal = float(matrix.diagonal().mean())
    delta = START_DAMPING
    for _ in range(60):
        candidate = matrix.clone()
        candidate.diagonal().add_(delta * mean_diagonal)
        bound = n * torch.finfo(dtype).eps * n * (1 + delta) / delta
        if dtype == torch.float64 and bound < INVERSE_TOLERANCE:
            return Damped(candidate, delta, bound)
        left = candidate @ torch.linalg.inv(candidate)
        left.diagonal().sub_(1)
        error = float(torch.linalg.matrix_norm(left))
        if error < INVERSE_TOLERANCE:
            return Damped(candidate, delta, error)
        delta *= 2
    raise StatisticsError(
        "the covariance cannot be inverted at any damping", mend="collect it again with more samples in float32"
    )


def check_covariance(covariance: Tensor) -> None:
    """Refuse what is no covariance: wrong shape, NaN, infinity, or all zero."""
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise StatisticsError(
            f"a covariance is square, this one has shape {tuple(covariance.shape)}",
            mend="give one matrix (in, in) a layer",
        )
    if not torch.isfinite(covariance).all():
        raise StatisticsError("the covariance holds NaN or infinity", mend="collect it again in float32")
    if float(covariance.diagonal().mean()) <= 0:
        raise StatisticsError("the covariance is all zero", mend="give calibration samples that reach this layer")


def oriented_start(
    weight: Tensor,
    covariance: Damped,
    rank: int,
    scaling: float,
    mode: Mode,
    *,
    orientation: Literal["covariance", "root"] = "covariance",
    balance: bool = False,
) -> AdapterStart:
    """A and B of one layer (CorDA, section 3.2): the ``rank`` smallest (kpm) or largest (ipm) components.

    B = U_r (S_r / s)^1/2 and A = (S_r / s)^1/2 V^_r^T, so that W = (W - s B A) + s B A.

    Args:
        weight: W, (out, in).
        covariance: damped C', (in, in).
        rank: r, 1 <= r <= min(out, in).
        scaling: s = alpha / r, or alpha / sqrt(r) for rank-stabilised adapters.
        orientation: ``"covariance"`` decomposes W C' as published; ``"root"`` W C'^1/2, whose
            truncation is optimal in output error.
        balance: scale A and B to equal Frobenius norms; the product is unchanged.

    Raises:
        TargetError: the rank does not fit the layer.
        StatisticsError: the covariance is of another width.
    """
    check_rank(weight, rank)
    out_features, in_features = weight.shape
    if covariance.matrix.shape[0] != in_features:
        raise StatisticsError(
            f"the covariance has {covariance.matrix.shape[0]} features, the layer {in_features}",
            mend="collect the covariance with the model that is adapted",
        )
    w = weight.detach().double()
    orient = covariance.matrix.double()
    if orientation == "root":
        orient = symmetric_root(orient)
    oriented = w @ orient
    left, values, right = outer_part(oriented, rank, largest=mode == "ipm")
    scaled_root = (values / scaling).clamp_min(torch.finfo(torch.float64).tiny).sqrt()
    b = left * scaled_root
    if out_features <= in_features or mode == "ipm":
        oriented_right = (left.T @ w) / values[:, None]  # V^^T = S^-1 U^T W: no inverse at all
    else:
        oriented_right = torch.cholesky_solve(right, torch.linalg.cholesky(orient)).T  # V^T C'^-1
    a = scaled_root[:, None] * oriented_right
    if balance:
        a, b = balanced(a, b)
    energy = float(oriented.square().sum())
    return AdapterStart(a, b, values, covariance.delta, covariance.inverse_error, energy)


def check_rank(weight: Tensor, rank: int) -> None:
    """Refuse a rank that a weight of this shape cannot have."""
    rows, columns = weight.shape
    if not 1 <= rank <= min(rows, columns):
        mend = f"choose a rank from 1 to {min(rows, columns)}"
        raise TargetError(f"rank {rank} does not fit a layer of {rows} x {columns}", mend=mend)


def plain_start(weight: Tensor, rank: int, scaling: float, *, largest: bool, balance: bool = False) -> AdapterStart:
    """The same cut without a context: PiSSA (largest, arXiv:2404.02948) and MiLoRA (smallest, arXiv:2406.09044)."""
    check_rank(weight, rank)
    w = weight.detach()
    w = w if w.dtype in (torch.float32, torch.float64) else w.float()
    # Without a context the spectrum spans three decades, not eight: the few triplets need no whole decomposition.
    left, values, right = extreme_part(w, rank, largest=largest) or singular_part(w, rank, largest=largest)
    scaled_root = (values / scaling).clamp_min(torch.finfo(torch.float64).tiny).sqrt()
    a, b = scaled_root[:, None] * right.T, left * scaled_root
    if balance:
        a, b = balanced(a, b)
    return AdapterStart(a, b, values, energy=float(torch.linalg.vector_norm(w, dtype=torch.float64)) ** 2)


def outer_part(oriented: Tensor, rank: int, *, largest: bool) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`singular_part`, by iteration where that settles: half of the time for a few of many components.

    The spectrum spans many decades, so everything stays in float64 and the vectors have to stand stiller than those
    of a plain weight.
    """
    found = extreme_part(oriented.double(), rank, largest=largest, still=ORIENTED_STILL)
    return found or singular_part(oriented, rank, largest=largest)


def singular_part(matrix: Tensor, rank: int, *, largest: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The ``rank`` largest or smallest singular triplets of M (rows, columns), values descending.

    Returns:
        U (rows, rank), S (rank,), V (columns, rank), all float64.
    """
    m = matrix.double()
    wide = m.shape[0] <= m.shape[1]
    gram = m @ m.T if wide else m.T @ m  # formed in float64: in float32 the small values are lost
    squares, vectors = torch.linalg.eigh(gram)  # ascending
    top = math.sqrt(max(float(squares[-1]), 0.0))
    bottom = math.sqrt(max(float(squares[0]), 0.0))
    if not largest and bottom < GRAM_LIMIT * top:
        u, s, vt = torch.linalg.svd(m, full_matrices=False)
        return u[:, -rank:], s[-rank:].clamp_min(torch.finfo(torch.float64).tiny), vt[-rank:].T
    chosen = (vectors[:, -rank:] if largest else vectors[:, :rank]).flip(1)
    other = m.T @ chosen if wide else m @ chosen
    values = torch.linalg.vector_norm(other, dim=0).clamp_min(torch.finfo(torch.float64).tiny)
    other = other / values
    return (chosen, values, other) if wide else (other, values, chosen)


def oriented_values(weight: Tensor, covariance: Damped) -> Tensor:
    """All singular values of W C', descending, (min(out, in),) float64."""
    return torch.linalg.svdvals(weight.detach().double() @ covariance.matrix.double())


def symmetric_root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a positive definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(torch.finfo(matrix.dtype).tiny).sqrt()) @ vectors.T


def balanced(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """A and B scaled to equal Frobenius norms without changing B A."""
    norm_a, norm_b = float(torch.linalg.matrix_norm(a)), float(torch.linalg.matrix_norm(b))
    if norm_a == 0 or norm_b == 0:
        return a, b
    factor = math.sqrt(norm_b / norm_a)
    return a * factor, b / factor


def drop_smallest(weight: Tensor, covariance: Damped | None, count: int) -> Tensor:
    """W without its ``count`` smallest components, oriented by ``covariance`` or plain; (out, in)."""
    context = covariance or Damped(torch.eye(weight.shape[1], dtype=torch.float64, device=weight.device), 0.0, 0.0)
    left, _, _ = outer_part(weight.detach().double() @ context.matrix.double(), count, largest=False)
    w = weight.detach().double()
    if weight.shape[0] <= weight.shape[1]:
        return (w - left @ (left.T @ w)).to(weight.dtype)  # U_d S_d V^_d^T = U_d U_d^T W
    start = oriented_start(weight, context, count, 1.0, "kpm")
    return start.residual(weight, 1.0)
