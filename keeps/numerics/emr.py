"""One vector, and a mask and a number a task: elect, mask and rescale (EMR-Merging, arXiv:2405.17461).

    gamma   = sign(sum_t tau_t)
    tau_uni = gamma * max_t |tau_t|   among the tau_t that have the sign of gamma
    M_t     = 1[tau_t * tau_uni > 0]
    lambda_t = sum |tau_t| / sum |M_t * tau_uni|            over the whole model
    theta_t ~ theta_0 + lambda_t M_t * tau_uni

The mask keeps the signs of task t, the number its length. Where the published code does otherwise it has a named
option: a sum of 0 counts as negative there, and its lambda adds up the *means* of tensors, small ones as much as large.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def unified(taus: Sequence[Tensor], *, zero_sign: str = "none") -> Tensor:
    """tau_uni, float32 in the shape of the ``taus``.

    >>> unified([torch.tensor([1.0, -3.0, 2.0]), torch.tensor([2.0, 1.0, -2.0])]).tolist()
    [2.0, -3.0, 0.0]

    Args:
        zero_sign: of entries whose sum is exactly 0: ``"none"`` (they are 0), or ``"minus"`` as in the published code.
    """
    total = torch.zeros_like(taus[0], dtype=torch.float32)
    for tau in taus:
        total += tau
    sign = total.sign()
    if zero_sign == "minus":
        sign = torch.where(total > 0, 1.0, -1.0)
    largest = torch.zeros_like(total)
    for tau in taus:
        torch.maximum(largest, tau.float() * sign, out=largest)
    return largest * sign


def agreeing(tau: Tensor, together: Tensor) -> Tensor:
    """M_t, bool."""
    return tau * together > 0


def length(values: Tensor, *, rescaling: str = "elements") -> float:
    """What a tensor adds to a length that lambda is the ratio of: sum |x|, or mean |x| as in the published code."""
    size = values.abs().sum(dtype=torch.float64)
    return float(size if rescaling == "elements" else size / max(1, values.numel()))


def packed_mask(mask: Tensor) -> Tensor:
    """A mask in 1 bit an entry, uint8 ``(ceil(n / 8),)``, the first entry in the highest bit.

    >>> packed_mask(torch.tensor([[True, False], [True, True]])).tolist()
    [176]
    """
    return torch.from_numpy(np.packbits(mask.cpu().reshape(-1).numpy()))


def unpacked_mask(data: Tensor, shape: Sequence[int]) -> Tensor:
    """Undo :func:`packed_mask`.

    Raises:
        ValueError: there are too few bytes, or too many, for the shape.
    """
    count = int(np.prod(shape))
    if data.dtype != torch.uint8 or data.numel() != -(-count // 8):
        raise ValueError(f"{data.numel()} bytes for a mask of {count} entries")
    return torch.from_numpy(np.unpackbits(data.cpu().numpy(), count=count).astype(bool)).reshape(tuple(shape))
