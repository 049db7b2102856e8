"""Arithmetic between weights: subtract what fine-tuning added, from whole models or from adapters.

    theta_new = theta_0 - lambda (theta_f - theta_0)                     (task vector negation)

Of a LoRA the difference is the *product* s B A, so negating A or B negates it, and negating both changes nothing.

Sources: Ilharco et al. 2023, arXiv:2212.04089 (task vectors). Zhang et al. 2023, arXiv:2306.14870 (arithmetic of
adapters). Hu et al. 2024, "Separate the Wheat from the Chaff", arXiv:2308.08090 (extraction before subtraction).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Factor = Literal["a", "b", "both"]


def negated(start: Tensor, tuned: Tensor, strength: float) -> Tensor:
    """theta_0 - strength (theta_f - theta_0); bit for bit ``start`` where nothing was tuned or the strength is 0.

    >>> negated(torch.tensor([1.0]), torch.tensor([1.5]), 1.0).tolist()
    [0.5]
    """
    if strength == 0:
        return start.clone()
    return start - strength * (tuned - start)


def negated_factors(a: Tensor, b: Tensor, strength: float = 1.0, *, factor: Factor = "b") -> tuple[Tensor, Tensor]:
    """A and B of an adapter with one of them, or both, multiplied by -strength.

    Args:
        a: (rank, in).
        b: (out, rank).
        factor: ``"both"`` gives the product strength^2 B A: the pitfall, not a negation.
    """
    if factor not in ("a", "b", "both"):
        raise ValueError(f'no factor "{factor}": a, b or both')
    return (-strength * a if factor != "b" else a.clone()), (-strength * b if factor != "a" else b.clone())


def deficiency(expert: Tensor, anti_expert: Tensor) -> tuple[Tensor, Tensor]:
    """What the anti-expert learned beyond what both learned, as d = a v- + b v+ with a number a row each (Ext-Sub).

    d = v- - <v-, c> c with c = (e+ + e-) / ||e+ + e-||, e+ = v+/||v+||, e- = v-/||v-||, row by row. A row in which
    one of them learned nothing shares nothing: there d = v-.

    Args:
        expert: (rows, columns), v+.
        anti_expert: likewise, v-.

    Returns:
        a and b, ``(rows, 1)`` each, in float64.
    """
    good, bad = expert.double(), anti_expert.double()
    p, m = (torch.linalg.vector_norm(rows, dim=1, keepdim=True) for rows in (good, bad))
    both = (p > 0) & (m > 0)
    p, m = torch.where(both, p, 1.0), torch.where(both, m, 1.0)
    shared = good / p + bad / m
    n = torch.linalg.vector_norm(shared, dim=1, keepdim=True)
    both &= n > 0  # opposite directions share nothing
    n = torch.where(both, n, 1.0)
    along = (bad * shared).sum(1, keepdim=True) / n
    along = torch.where(both, along, 0.0)
    return 1 - along / (m * n), -along / (p * n)


def extracted_before_subtracted(
    expert: tuple[Tensor, Tensor], anti_expert: tuple[Tensor, Tensor], strength: float
) -> tuple[Tensor, Tensor]:
    """A and B of v+ - strength d, exactly: of rank 2r, since d is a sum of scaled rows of both adapters.

    Args:
        expert: A (rank, in) and B (out, rank) of the expert, with their scaling in B.
        anti_expert: likewise.

    Returns:
        A (2 rank, in) and B (out, 2 rank), float32.
    """
    (a_good, b_good), (a_bad, b_bad) = expert, anti_expert
    a, b = deficiency(b_good.double() @ a_good.double(), b_bad.double() @ a_bad.double())
    left = torch.cat([(1 - strength * b) * b_good.double(), -strength * a * b_bad.double()], dim=1)
    return torch.cat([a_good, a_bad], dim=0).float(), left.float()
