"""Where a low-rank adapter starts, other than from the weight's own components: tensors in, A0 and B0 out.

    OLoRA    W = Q R              B = Q[:, :r]              A = R[:r]            (arXiv:2406.01775)
    LoRA-GA  dL/dW = U S V^T      B = c U[:, r:2r]          A = c V[:, :r]^T     (arXiv:2407.05000)
    EVA      X^T X = V L V^T      B = 0                     A = V[:, :r]^T       (arXiv:2410.07170)

where c = out^(1/4) / gamma^(1/2) and X holds the layer's inputs, (tokens, in).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from keeps.errors import StatisticsError
from keeps.numerics.oriented import GRAM_LIMIT, AdapterStart, check_covariance, check_rank, singular_part

Variant = Literal["paper", "peft"]
VARIANTS = ("paper", "peft")
LEAST_SHARE = 1e-12  # of the energy: directions below are not used by the inputs, but rounding


def orthogonal_start(weight: Tensor, rank: int) -> AdapterStart:
    """OLoRA's start: the first ``rank`` columns of Q and rows of R in W = Q R.

    The first columns of Q depend on the first columns of W alone, and R[:r] = Q[:, :r]^T W, so that the rest
    of the decomposition is never formed.

    Args:
        weight: W, (out, in).
    """
    check_rank(weight, rank)
    w = weight.double()
    q = torch.linalg.qr(w[:, :rank]).Q
    r = q.T @ w
    return AdapterStart(r, q, torch.linalg.vector_norm(r, dim=1))


def gradient_start(gradient: Tensor, rank: int, *, gamma: float, variant: Variant = "paper") -> AdapterStart:
    """LoRA-GA's start: A and B from different singular vectors, so that their first step is the best of rank 2r.

    With A^T A and B B^T projections (times c^2) the first step of gradient descent changes W by a multiple of
    B B^T G + G A^T A, which is c^2 times the best approximation of G of rank 2r (theorem 3.1 of the paper).

    Args:
        gradient: G = dL/dW, (out, in).
        gamma: divides the squared norm of every row of A and column of B.
        variant: ``"peft"`` leaves A orthonormal and multiplies B by the singular values and by c.

    Raises:
        TargetError: 2r exceeds the smaller side.
        StatisticsError: the gradient is not finite or zero.
    """
    check_rank(gradient, 2 * rank)
    if not torch.isfinite(gradient).all():
        mend = "use precision float32, and check the model"
        raise StatisticsError("the gradient holds NaN or infinity", mend=mend)
    left, values, right = _leading(gradient, 2 * rank)
    factor = gradient.shape[0] ** 0.25 / gamma**0.5
    a, b = right[:, :rank].T, left[:, rank:] * factor
    if variant == "peft":
        return AdapterStart(a, b * values[rank:], values)
    return AdapterStart(a * factor, b, values)


def principal_inputs(covariance: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` directions that hold most of the inputs' energy, and the share of each.

    Args:
        covariance: X^T X up to a factor, (in, in).

    Returns:
        Rows of an orthonormal matrix (count, in), and shares (count,) of the trace, descending, both float64.

    Raises:
        StatisticsError: the covariance is not square, not finite, or zero.
    """
    check_covariance(covariance)
    values, vectors = torch.linalg.eigh(covariance.double())  # ascending
    shares = (values.flip(0) / values.sum())[:count].clamp_min(0)
    directions = vectors.flip(1)[:, :count].T
    biggest = directions.abs().argmax(dim=1, keepdim=True)  # a sign that does not depend on the library
    return directions * directions.gather(1, biggest).sign(), shares


def redistributed(shares: Mapping[str, Tensor], budget: int) -> dict[str, int]:
    """How many of each layer's leading components are among the ``budget`` of largest share over all layers.

    Args:
        shares: layer name -> shares of its components, descending; as many as the layer may get.

    Returns:
        A rank for each layer, 0 among them. Components whose share is only rounding are never counted, so
        the sum may be below the budget.

    >>> redistributed({"first": torch.tensor([0.9, 0.05]), "second": torch.tensor([0.5, 0.3])}, budget=3)
    {'first': 1, 'second': 2}
    """
    ranked = sorted(
        ((share, name) for name, values in shares.items() for share in values.tolist() if share > LEAST_SHARE),
        key=lambda item: -item[0],  # a stable sort: equal shares go in the order of the layers
    )
    ranks = dict.fromkeys(shares, 0)
    for _, name in ranked[:budget]:
        ranks[name] += 1
    return ranks


def _leading(matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The largest singular triplets, orthonormal also where the matrix has a lower rank; signs are fixed."""
    left, values, right = singular_part(matrix, count, largest=True)
    if float(values[0]) <= torch.finfo(torch.float32).tiny:
        mend = "give examples whose answers the model does not predict with certainty"
        raise StatisticsError("the gradient is zero", mend=mend)
    if float(values[-1]) < 10 * GRAM_LIMIT * float(values[0]):  # what the Gram matrix cannot tell from zero
        u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
        left, values, right = u[:, :count], s[:count], vt[:count].T
    signs = left.gather(0, left.abs().argmax(dim=0, keepdim=True)).sign()
    return left * signs, values, right * signs
