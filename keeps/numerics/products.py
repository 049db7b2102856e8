"""Norms of a product B A through its small factors: nothing of size out x in is ever formed.

With the Grams G_A = A A^T and G_B = B^T B, both r x r,

    ||B A||_F^2 = tr(G_B G_A)          ||B A||_2 = ||R_B R_A^T||_2,  B = Q_B R_B,  A^T = Q_A R_A

so that a penalty on what a low-rank adapter adds to a weight costs r^2 (in + out) and not r in out.
"""

from __future__ import annotations

import torch
from torch import Tensor


def squared_norm(a: Tensor, b: Tensor) -> Tensor:
    """||B A||_F^2, a scalar of the factors' dtype; differentiable, at least 0 up to rounding.

    The distance of two products, ||B A - B0 A0||_F^2, is that of the factors [A; A0] and [B, -B0].

    >>> float(squared_norm(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [0.0]])))
    45.0

    Args:
        a: ``(rank, in)``.
        b: ``(out, rank)``.
    """
    return ((a @ a.T) * (b.T @ b)).sum()


def core(a: Tensor, b: Tensor) -> Tensor:
    """R_B R_A^T, at most ``(rank, rank)`` and float64, which has the singular values of B A."""
    return torch.linalg.qr(b.double()).R @ torch.linalg.qr(a.double().T).R.T


def spectral_norm(a: Tensor, b: Tensor) -> float:
    """||B A||_2, the largest singular value of the product.

    >>> round(spectral_norm(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0], [2.0]])), 6)
    10.0
    """
    return float(torch.linalg.matrix_norm(core(a, b), 2))
