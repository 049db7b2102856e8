"""The few largest or smallest singular triplets of a matrix, without decomposing all of it.

Subspace iteration with a Chebyshev filter (Zhou, Saad, Tiago and Chelikowsky 2006, "Self-consistent-field
calculations using Chebyshev-filtered subspace iteration"): a block of somewhat more vectors than are wanted
is multiplied by a polynomial of the Gram matrix that is small on the unwanted part of its spectrum, made
orthonormal, and rotated to its Ritz vectors, until they stand still. For the smallest triplets the
inverse of the Gram matrix takes its place. Where rounding allows it all products are in float32;
the last rotation is found in float64. A matrix whose vectors do not stand still is left to the
caller, who decomposes it whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

CONDITION = 1e-7  # ratio of singular values below which the Gram matrix in float64 loses the smallest
SINGULAR = 1e-12  # the same of the matrix itself
EXTRA = 16  # vectors in the block beyond those wanted: they widen the gap that the filter works with
DEGREE = 12  # of the polynomial between two rotations, at most
CYCLES = 12  # rotations after which decomposing the whole is the cheaper way
DENSE = 6  # the block is at most this part of the short side, else the same
STILL = 1e-5  # sine of that angle by default, estimated from the residual
STOPPED = 1e-4  # the same where another rotation no longer halves it
SPREAD = 30.0  # condition of M up to which products with the inverse are exact enough in float32

Operator = Callable[[Tensor], Tensor]
Triplets = tuple[Tensor, Tensor, Tensor]


def extreme_part(matrix: Tensor, rank: int, *, largest: bool, still: float = STILL) -> Triplets | None:
    """The ``rank`` largest or smallest singular triplets of M, where that is faster than all of them.

    Args:
        matrix: M, (rows, columns), float32 or float64.
        rank: how many triplets.
        still: sine of the angle by which the wanted subspace may still be off.

    Returns:
        U (rows, rank), S (rank,) descending, V (columns, rank), all float64; None where the rank is above a
        sixth of the short side less 16, where M is close to singular and the smallest are wanted, or
        where the vectors did not settle.
    """
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    found = None
    if DENSE * (rank + EXTRA) <= tall.shape[1]:
        with _exact_products():
            found = _largest(tall, rank, still) if largest else _smallest(tall, rank, still)
    if found is None:
        return None
    left, values, right = found
    return (left, values, right) if tall is matrix else (right, values, left)


def _largest(tall: Tensor, rank: int, still: float) -> Triplets | None:
    """From M^T M in the matrix's own precision."""
    gram = tall.T @ tall
    block = _subspace(lambda x: gram @ x, _start(gram, rank), rank, still)
    return None if block is None else _rotated(tall, block, rank, largest=True)


def _smallest(tall: Tensor, rank: int, still: float) -> Triplets | None:
    """From (M^T M)^-1 = R^-1 R^-T, with R in float64."""
    m = tall.double()
    single = tall.dtype == torch.float32
    found = _factor_of_gram(m) if single else _factor(m)
    if found is None:
        return None
    factor, spread = found
    start = _start(factor, rank)
    if single and spread < SPREAD:
        inverse = torch.cholesky_inverse(factor, upper=True).float()
        block = _subspace(lambda x: inverse @ x, start.float(), rank, still)
    else:  # a solve is as exact as the factor; the inverse would lose the square of the condition number
        block = _subspace(lambda x: torch.cholesky_solve(x, factor, upper=True), start, rank, still)
    if block is None:
        return None
    # Once more, exactly: what is left of the largest components would outweigh the smallest.
    return _rotated(m, torch.cholesky_solve(block.double(), factor, upper=True), rank, largest=False)


def _factor_of_gram(m: Tensor) -> tuple[Tensor, float] | None:
    """R of M^T M by Cholesky, which is fastest, and how far its diagonal spreads; None where rounding ate the end."""
    factor, failed = torch.linalg.cholesky_ex(m.T @ m, upper=True)
    diagonal = factor.diagonal()
    if failed or float(diagonal.min()) < CONDITION * float(diagonal.max()):
        return None
    return factor, float(diagonal.max() / diagonal.min())


def _factor(m: Tensor) -> tuple[Tensor, float] | None:
    """R of M itself by Householder reflections: the condition number stays unsquared. None where M is singular."""
    factor = torch.linalg.qr(m, mode="r").R
    diagonal = factor.diagonal().abs()
    if float(diagonal.min()) < SINGULAR * float(diagonal.max()):
        return None
    return factor, float(diagonal.max() / diagonal.min())


def _rotated(tall: Tensor, block: Tensor, rank: int, *, largest: bool) -> Triplets | None:
    """The wanted triplets in the space of ``block``: a singular value decomposition of M restricted to it."""
    vectors = torch.linalg.qr(block.double()).Q
    image = (tall @ vectors.to(tall.dtype)).double()
    turn = torch.linalg.eigh(image.T @ image)[1]  # ascending
    turn = (turn[:, -rank:] if largest else turn[:, :rank]).flip(1)
    return _triplets(image @ turn, vectors @ turn)


def _triplets(image: Tensor, right: Tensor) -> Triplets | None:
    values = torch.linalg.vector_norm(image, dim=0)
    return (image / values, values, right) if bool(values.all()) else None


def _start(like: Tensor, rank: int) -> Tensor:
    """Random vectors, (n, rank + 16), always the same ones."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(like), rank + EXTRA, generator=generator, dtype=torch.float64).to(like)


def _subspace(operator: Operator, start: Tensor, rank: int, enough: float) -> Tensor | None:
    """Vectors (n, rank + 16) that hold the leading eigenvectors of a positive operator; None if they keep moving."""
    vectors = torch.linalg.qr(operator(start)).Q
    before = float("inf")
    for _ in range(CYCLES):
        image = operator(vectors)
        values, turn = torch.linalg.eigh(vectors.T @ image)  # ascending
        vectors, image = vectors @ turn, image @ turn
        cut, wanted = float(values[0]), float(values[-rank])
        # of the vector that is slowest to settle, the last one wanted: those before it move with rounding only
        moved = float(torch.linalg.vector_norm(image[:, -rank] - vectors[:, -rank] * wanted))
        if not cut > 0 or not wanted > cut:
            return None
        still = moved / (wanted - cut)
        if still <= enough or (still <= STOPPED and moved > before / 2):  # the second is where rounding ends it
            return vectors
        before = moved
        degree = math.ceil(math.acosh(max(2 * still / enough, 2.0)) / math.acosh(2 * wanted / cut - 1))
        vectors = torch.linalg.qr(_filtered(operator, vectors, image, cut, min(max(degree, 2), DEGREE))).Q
    return None


def _filtered(operator: Operator, vectors: Tensor, image: Tensor, cut: float, degree: int) -> Tensor:
    """T_d((2 / cut) H - I) X: bounded by 1 on eigenvalues from 0 to ``cut``, growing fast above; columns scaled."""
    last, now = vectors, image * (2 / cut) - vectors
    for _ in range(degree - 1):
        last, now = now, (operator(now) * (2 / cut) - now).mul_(2).sub_(last)
    return now / torch.linalg.vector_norm(now, dim=0)


@contextmanager
def _exact_products() -> Iterator[None]:
    """Products of float32 matrices in float32, whatever the program has allowed for its models."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
