"""Models that pull an element in opposite directions: which sign wins, and the mean of those that have it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keeps.weights.halves import Floats


def elected_positive(weighted: Floats, zero_is_positive: bool) -> NDArray[np.bool_]:
    """Whether the sum of the models is positive, bool ``(n,)``.

    Args:
        weighted: task vectors times their weights, float32 ``(models, n)``.
        zero_is_positive: what a sum of exactly 0 counts as.
    """
    total = weighted[0].copy()
    for row in weighted[1:]:
        total += row
    return total >= 0 if zero_is_positive else total > 0


def agreeing_mean(weights: Floats, weighted: Floats, positive: NDArray[np.bool_], normalize: bool) -> Floats:
    """Sum of the entries with the elected sign, divided by the weights of just these, float32 ``(n,)``.

    Entries that are 0 agree with nobody; where nobody agrees the result is 0.
    """
    sign = positive.astype(np.float32)
    sign *= 2
    sign -= 1
    total = np.zeros(weighted.shape[1], dtype=np.float32)
    divisor = np.zeros(weighted.shape[1], dtype=np.float32)
    for weight, row in zip(weights[:, 0], weighted, strict=True):
        towards = row * sign  # positive where the entry agrees
        divisor += (towards > 0) * weight
        total += np.maximum(towards, 0, out=towards)
    if normalize:
        if (weights > 0).all():  # where nobody agrees 0 is divided by the smallest instead of by 0
            np.maximum(divisor, weights.min(), out=divisor)
        else:
            divisor[divisor == 0] = 1
        total /= divisor
    total *= sign
    return total
