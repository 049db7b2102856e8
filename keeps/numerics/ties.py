"""TIES: several updates of one tensor as one, without those that cancel each other (arXiv:2306.01708)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def trimmed(update: Tensor, density: float) -> Tensor:
    """``update`` with all but its ``density`` largest entries by size set to zero.

    >>> trimmed(torch.tensor([3.0, -1.0, 2.0, 0.5]), 0.5)
    tensor([3., 0., 2., 0.])

    Raises:
        ValueError: the density is not in (0, 1].
    """
    if not 0 < density <= 1:
        raise ValueError(f"a density is above 0 and at most 1, not {density}")
    count = max(1, round(density * update.numel()))
    kept = update.abs().flatten().topk(count).indices
    result = torch.zeros_like(update).flatten()
    result[kept] = update.flatten()[kept]
    return result.view_as(update)


def smallest_kept(tensors: Sequence[Tensor], density: float) -> float:
    """The magnitude from which on the ``density`` largest entries of all ``tensors`` together are kept.

    >>> smallest_kept([torch.tensor([3.0, -1.0]), torch.tensor([2.0, 0.5])], 0.5)
    2.0

    Raises:
        ValueError: the density is not in (0, 1].
    """
    if not 0 < density <= 1:
        raise ValueError(f"a density is above 0 and at most 1, not {density}")
    flat = torch.cat([tensor.abs().flatten() for tensor in tensors])
    count = max(1, round(density * flat.numel()))
    return float(flat.kthvalue(flat.numel() - count + 1).values)


def ties(updates: Sequence[Tensor], density: float) -> Tensor:
    """Trim, elect the sign of each entry's sum, and take the mean of the entries that agree with it.

    Args:
        updates: differences from a common start, of one shape.
        density: share of each update that is kept, in (0, 1].

    >>> ties([torch.tensor([2.0, 0.1, -3.0]), torch.tensor([4.0, -5.0, 1.0])], 0.67)
    tensor([ 3., -5., -3.])

    Raises:
        ValueError: there is no update, or the density is not in (0, 1].
    """
    if not updates:
        raise ValueError("there is no update to merge")
    stacked = torch.stack([trimmed(update, density) for update in updates])
    agreeing = stacked.sign() == stacked.sum(0).sign()
    agreeing &= stacked != 0
    return (stacked * agreeing).sum(0) / agreeing.sum(0).clamp_min(1)
