"""Several linear maps made one by regression: the map nearest to each of them on its own inputs.

    W = argmin_W sum_i ||X_i W - X_i W_i||^2 = (sum_i G_i)^-1 sum_i G_i W_i,      G_i = X_i^T X_i

Only the Gram matrices are needed, never the inputs. Fusing is associative on all directions that some input has: W
with sum_i G_i may be fused again.
Where the inputs leave directions out, sum G_i has no inverse and every W that agrees on the others is a minimiser.
Taken is the one nearest to the mean of the W_i, so that equal maps are returned as they are whatever their inputs:

    W = M + (sum_i G_i)^+ sum_i G_i (W_i - M),        M = mean of the W_i

Sources:
    Jin et al. 2023, arXiv:2212.09849 (regression mean). Chen and Yang 2023, arXiv:2310.20150 (unlearning layers).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from keeps.errors import SettingsError

RELATIVE_FLOOR = 1e-10  # eigenvalues below this share of the largest are directions that no input has


def gram(inputs: Tensor) -> Tensor:
    """X^T X in float64, ``(in, in)``, of inputs ``(..., in)``."""
    rows = inputs.reshape(-1, inputs.shape[-1]).double()
    return rows.T @ rows


def regression_fusion(weights: Sequence[Tensor], grams: Sequence[Tensor]) -> Tensor:
    """The map that is nearest to every one of ``weights`` on the inputs that ``grams`` are made of.

    >>> one, two = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [4.0]])
    >>> regression_fusion([one, two], [torch.diag(torch.tensor([1.0, 0])), torch.diag(torch.tensor([0, 1.0]))]).tolist()
    [[1.0], [4.0]]

    Args:
        weights: of shape ``(in, out)`` each, so that a map takes x to x W.
        grams: X_i^T X_i of each map's own inputs, ``(in, in)``, symmetric.

    Returns:
        ``(in, out)`` in float64. A single map is returned as it is.

    Raises:
        SettingsError: there is none, or the shapes do not belong together.
    """
    if not weights or len(weights) != len(grams):
        what = f"{len(weights)} maps and {len(grams)} Gram matrices cannot be fused"
        raise SettingsError(what, where="regression_fusion", mend="give one Gram matrix a map")
    shape, width = weights[0].shape, weights[0].shape[0]
    if any(w.shape != shape for w in weights) or any(tuple(g.shape) != (width, width) for g in grams):
        what = f"maps of {shape[0]} inputs and {shape[1]} outputs are fused with others of another size"
        raise SettingsError(what, where="regression_fusion", mend="fuse layers of one place, rank and model")
    wide = [weight.double() for weight in weights]
    mean = wide[0] + sum((each - wide[0] for each in wide[1:]), torch.zeros_like(wide[0])) / len(wide)
    right = sum((g.double() @ (w - mean) for g, w in zip(grams, wide, strict=True)), torch.zeros_like(mean))
    total = sum((g.double() for g in grams[1:]), grams[0].double())
    return mean + _deviation(total, right)


def damped(gram: Tensor, alpha: float) -> Tensor:
    """alpha G + (1 - alpha) diag(G): off-diagonal entries multiplied by ``alpha``.

    >>> damped(torch.tensor([[2.0, 1.0], [1.0, 4.0]]), 0.5).tolist()
    [[2.0, 0.5], [0.5, 4.0]]
    """
    return alpha * gram + (1 - alpha) * torch.diag(gram.diagonal())


def least_squares_update(mean: Tensor, total: Tensor, right: Tensor, *, alpha: float = 1.0) -> Tensor:
    """:func:`regression_fusion` from sums, so that one map after the other may be added up.

    Args:
        mean: M, ``(in, out)``.
        total: sum_i G_i, ``(in, in)``.
        right: sum_i G_i W_i, ``(in, out)``.
        alpha: by which the G_i were :func:`damped`. Below 1 no eigenvalue of their sum is smaller than (1 - alpha)
            times its least diagonal entry; where that rules out directions that no input has, the equations are
            solved by a Cholesky decomposition, fifteen times faster than with eigenvectors.

    Returns:
        ``(in, out)`` in float64.
    """
    wide, gram = mean.double(), total.double()
    rest = right.double() - gram @ wide
    diagonal = gram.diagonal()
    if float((1 - alpha) * diagonal.min()) > RELATIVE_FLOOR * float(diagonal.sum()):  # which is above the largest
        factor, failed = torch.linalg.cholesky_ex((gram + gram.T) / 2)
        if not int(failed):
            return wide + torch.cholesky_solve(rest, factor)
    return wide + _deviation(gram, rest)


def _deviation(total: Tensor, right: Tensor) -> Tensor:
    """total^+ right, for a symmetric ``total`` without negative eigenvalues."""
    values, vectors = torch.linalg.eigh((total + total.T) / 2)
    there = values > RELATIVE_FLOOR * values[-1].clamp_min(0)
    inverse = torch.where(there, 1 / torch.where(there, values, 1.0), 0.0)
    return vectors @ (inverse[:, None] * (vectors.T @ right))
