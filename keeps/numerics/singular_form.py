"""Penalties that make B diag(g) A a singular value decomposition (KaSA, arXiv:2412.06071, section 3.3).

    L2 = ||diag(g)||_F^2,     L3 = ||B^T B - I||_F + ||A A^T - I||_F

Where L3 is zero, the columns of B and the rows of A are orthonormal and |g| are the singular values of the
product. The official code takes the other side, ||B B^T - I||_F + ||A^T A - I||_F, of which a matrix of rank
r can never be an identity. Since B^T B and B B^T have the same nonzero eigenvalues,

    ||A^T A - I_in||_F^2 = ||A A^T - I_r||_F^2 + (in - r)

so that form has the floor sqrt(in - r) + sqrt(out - r), and needs no matrix of its own size either.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Form = Literal["paper", "official"]
FORMS = ("paper", "official")
UNDER_ROOT = 1e-12  # a norm has no gradient at zero; this gives it the gradient zero there


def singular_value_penalty(gate: Tensor) -> Tensor:
    """L2, the sum of g^2: ``(..., rank)`` to ``(...)``.

    >>> float(singular_value_penalty(torch.tensor([1.0, -2.0])))
    5.0
    """
    return gate.square().sum(-1)


def orthogonal_penalty(a: Tensor, b: Tensor, form: Form = "paper") -> Tensor:
    """L3 of one layer, or of several of one shape; 1e-12 is added under each root.

    >>> round(float(orthogonal_penalty(torch.eye(2, 3), torch.zeros(4, 2))), 5)
    1.41421

    Args:
        a: ``(..., rank, in)``.
        b: ``(..., out, rank)``.
        form: ``"paper"`` compares r x r matrices with the identity, ``"official"`` in x in and out x out.

    Returns:
        ``(...)``.
    """
    return _from_orthonormal(b.mT, form) + _from_orthonormal(a, form)


def _from_orthonormal(rows: Tensor, form: Form) -> Tensor:
    """||M M^T - I||_F of M ``(..., rank, width)``, or ||M^T M - I||_F in the official form."""
    rank, width = rows.shape[-2:]
    identity = torch.eye(rank, dtype=rows.dtype, device=rows.device)
    square = (rows @ rows.mT - identity).square().sum((-2, -1))
    if form == "official":
        square = square + (width - rank)
    return (square + UNDER_ROOT).sqrt()
