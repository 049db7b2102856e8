"""Proximal operators that set small numbers to exactly zero, and how their threshold rises over a run.

Sources:
    Donoho, "De-noising by soft-thresholding", IEEE Trans. Inf. Theory 41 (1995): the operator.
    Parikh and Boyd, "Proximal algorithms", Foundations and Trends in Optimization 1 (2014): section 6.5.2.
    CoDyRA, arXiv:2412.01004: the schedule, and the operator of its official code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Threshold = float | Tensor


def soft_threshold(values: Tensor, threshold: Threshold) -> Tensor:
    """S_k(v) = sign(v) max(|v| - k, 0), which minimises k |x| + (x - v)^2 / 2 over x.

    >>> soft_threshold(torch.tensor([0.25, -0.5, 1.0]), 0.5).tolist()
    [0.0, 0.0, 0.5]

    Args:
        values: any shape.
        threshold: k >= 0, a number or a tensor that broadcasts with ``values``; infinity gives zeros.
    """
    return torch.where(values.abs() > threshold, values - values.sign() * threshold, torch.zeros_like(values))


def gap_threshold(values: Tensor, threshold: Threshold) -> Tensor:
    """Shrink as :func:`soft_threshold` does, then set to zero what is left below the threshold.

    In effect |v| - k from 2 k upwards and 0 below: no result lies in the gap between 0 and k. This is
    what CoDyRA's official code computes; it is the proximal operator of no convex penalty. At 2 k
    exactly the rounding of the subtraction decides.

    >>> gap_threshold(torch.tensor([0.75, -1.0, 1.25]), 0.5).tolist()
    [0.0, -0.5, 0.75]
    """
    shrunk = soft_threshold(values, threshold)
    return torch.where(shrunk.abs() >= threshold, shrunk, torch.zeros_like(shrunk))


def threshold_share(step: int, total: int, *, dense_fraction: float, levels: int) -> float:
    """The share of the largest threshold that holds after step ``step`` of ``total`` (counted from 1).

    0 during the first ``dense_fraction`` of the steps, then rising to 1 in ``levels`` equal steps.

    >>> [threshold_share(step, 8, dense_fraction=0.5, levels=2) for step in range(1, 9)]
    [0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
    """
    dense = math.floor(dense_fraction * total)
    if step <= dense:
        return 0.0
    return -(-(step - dense) * levels // (total - dense)) / levels


def share_sum(total: int, *, dense_fraction: float, levels: int) -> float:
    """Sum of :func:`threshold_share` over the run: what the largest threshold is multiplied by in all.

    >>> share_sum(8, dense_fraction=0.5, levels=2)
    3.0
    """
    shares = (threshold_share(step, total, dense_fraction=dense_fraction, levels=levels) for step in range(total + 1))
    return math.fsum(shares)
