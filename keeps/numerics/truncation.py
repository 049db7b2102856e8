"""The smallest singular components of a weight, taken out as two factors (KaSA, arXiv:2412.06071, section 3.2).

    W = U S V^T,   W_world = W - U_d S_d V_d^T = W - s B0 A0,   B0 = U_d (S_d / s)^1/2,   A0 = (S_d / s)^1/2 V_d^T

with d the r smallest of the min(out, in) components. As two factors of rank r the removed part costs
r (out + in) numbers, gives W back whenever it is wanted, and is one half of a plain LoRA for W.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from keeps.errors import TargetError
from keeps.numerics.oriented import AdapterStart, singular_part

Rule = Literal["paper", "official"]
RULES = ("paper", "official")


def removed_count(rows: int, columns: int, rank: int, rule: Rule = "paper") -> int:
    """How many of the min(rows, columns) components of a weight are removed.

    The paper keeps all but ``rank`` of them. The official code keeps the first ``columns - rank``, which
    is the same where a weight has at least as many rows as columns, and less or nothing where it is wider.

    >>> removed_count(6, 4, 2), removed_count(4, 6, 2), removed_count(4, 6, 2, "official")
    (2, 2, 0)
    >>> removed_count(4, 5, 2, "official")
    1
    """
    components = min(rows, columns)
    kept = components - rank if rule == "paper" else columns - rank
    return max(0, components - kept)


def removed_part(weight: Tensor, rank: int, scaling: float, rule: Rule = "paper") -> AdapterStart:
    """The ``rank`` smallest components of W as factors: ``residual(weight, scaling)`` of them is W_world.

    Where the rule removes fewer, the factors are filled with zeros up to ``rank``, so that they have the
    shape of the adapter in any case.

    Args:
        weight: W, ``(out, in)``.
        rank: r, 1 <= r < min(out, in).
        scaling: s of W + s B A.

    Returns:
        A0 ``(rank, in)``, B0 ``(out, rank)`` and the removed singular values ``(rank,)``, descending; float64.

    Raises:
        TargetError: the rank would leave nothing, the weight holds NaN or infinity, or what would be removed is
            no larger than the rounding of the weight: it lacks these components already.
    """
    rows, columns = weight.shape
    if not 1 <= rank < min(rows, columns):
        raise TargetError(
            f"{rank} components cannot be removed from a weight of {rows} x {columns}",
            mend=f"choose a rank from 1 to {min(rows, columns) - 1}",
        )
    w = weight.detach().double()
    if not bool(w.isfinite().all()):
        raise TargetError("the weight holds NaN or infinity", mend="load the model again, in float32")
    count = removed_count(rows, columns, rank, rule)
    a, b = w.new_zeros(rank, columns), w.new_zeros(rows, rank)
    values = w.new_zeros(rank)
    if count:
        left, values[:count], right = singular_part(w, count, largest=False)
        if float(values[0]) <= rounding_norm(weight):
            raise TargetError(
                f"the {count} smallest components of the weight are no larger than its rounding",
                mend="give a model that was not truncated before, in float32, or choose truncation none",
            )
        root = (values[:count] / scaling).sqrt()
        b[:, :count], a[:count] = left * root, root[:, None] * right.T
    return AdapterStart(a, b, values)


def least_used_part(weight: Tensor, covariance: Tensor, rank: int, scaling: float) -> AdapterStart:
    """The ``rank`` output directions of W that carry least on given inputs, as factors; not of the paper, ours.

        U = the eigenvectors of W C W^T with the r smallest eigenvalues,   W_world = W - U U^T W

    Of all W' = W - P W with P of rank r this one has the smallest mean ||(W - W') x||^2 over the inputs behind C.
    The smallest components of W itself can matter more than others: where an input is a thousand times larger
    along one direction, a weight is small there on purpose.

    Args:
        weight: W, ``(out, in)``, with rank < out.
        covariance: C, ``(in, in)``, the mean of x x^T or any multiple of it.

    Returns:
        A0 ``(rank, in)``, B0 ``(out, rank)`` and the singular values of U^T W ``(rank,)``, descending; float64.

    Raises:
        TargetError: the rank would leave nothing, or the weight or the covariance holds NaN or infinity.
    """
    rows = weight.shape[0]
    if not 1 <= rank < rows:
        mend = f"choose a rank from 1 to {rows - 1}"
        raise TargetError(f"{rank} output directions cannot be removed from {rows}", mend=mend)
    w, c = weight.detach().double(), covariance.double()
    if not bool(w.isfinite().all() and c.isfinite().all()):
        raise TargetError("the weight or the covariance holds NaN or infinity", mend="load the model again, in float32")
    quiet = torch.linalg.eigh(w @ c @ w.T).eigenvectors[:, :rank]
    left, values, right = torch.linalg.svd(quiet.T @ w, full_matrices=False)
    root = (values / scaling).sqrt()
    b, a = (quiet @ left) * root, root[:, None] * right
    if len(values) < rank:  # more directions than the weight has columns: nothing is left along some of them
        b = torch.cat([b, b.new_zeros(rows, rank - len(values))], 1)
        a = torch.cat([a, a.new_zeros(rank - len(values), a.shape[1])])
        values = torch.cat([values, values.new_zeros(rank - len(values))])
    return AdapterStart(a, b, values)


def rounding_norm(weight: Tensor) -> float:
    """About the largest singular value of the error that storing W in its dtype makes.

    An error of at most eps / 2, relative and uniform, has entries of size eps / sqrt(12) times those of W,
    and a random matrix with entries of size e a largest singular value of e (sqrt(out) + sqrt(in)).
    """
    rows, columns = weight.shape
    entry = float(torch.linalg.matrix_norm(weight.detach().double())) / math.sqrt(rows * columns)
    return torch.finfo(weight.dtype).eps / math.sqrt(12) * entry * (math.sqrt(rows) + math.sqrt(columns))
