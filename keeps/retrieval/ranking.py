"""The best of many scores, and several rankings made one: exact, the same on every machine.

Scores that agree to a millionth count as equal, since sums differ in their last bits from one number of threads to
another; of equal ones the row that stands first wins.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from keeps.errors import SettingsError

Rows = NDArray[np.int64]
RRF_CONSTANT = 60.0  # Cormack et al. 2009
DECIMALS = 6


def best_rows(scores: NDArray, k: int, eligible: NDArray[np.bool_] | None = None, *, above: float = -np.inf) -> Rows:
    """The ``k`` rows with the highest scores, best first; of equal ones the first.

    Args:
        scores: ``(rows,)``, finite.
        eligible: ``(rows,)``; other rows are left out.
        above: only scores that are higher.

    >>> best_rows(np.array([0.5, 2.0, 0.5, 1.0]), 3).tolist()
    [1, 3, 0]
    """
    if eligible is None and above == -np.inf:
        candidates = np.arange(len(scores))
    else:
        chosen = scores > above
        candidates = np.flatnonzero(chosen if eligible is None else chosen & eligible)
    if k < 1 or not len(candidates):
        return np.empty(0, np.int64)
    values = scores[candidates].astype(np.float64)
    if k < len(candidates):
        bound = np.partition(values, len(values) - k)[len(values) - k] - 2 * 10.0**-DECIMALS
        near = values >= bound
        candidates, values = candidates[near], values[near]
    order = np.lexsort((candidates, -np.round(values, DECIMALS)))
    return candidates[order[:k]].astype(np.int64)


def reciprocal_ranks(
    lists: Sequence[Rows], weights: Sequence[float] | None = None, constant: float = RRF_CONSTANT
) -> tuple[Rows, NDArray[np.float64]]:
    """Reciprocal rank fusion: ``s(d) = sum over lists of w / (constant + rank of d)``; absent adds nothing.

    Cormack, Clarke and Buettcher 2009. Ranks count from 1; a row that stands twice in a list counts once, where it
    stands first.

    Returns:
        Every row that is in a list, best first, and their scores.

    >>> rows, scores = reciprocal_ranks([np.array([7, 8]), np.array([8, 9])])
    >>> rows.tolist(), float(scores[0]) == 1 / 61 + 1 / 62
    ([8, 7, 9], True)
    """
    total: dict[int, float] = {}
    for rows, weight in zip(lists, _checked(weights, len(lists)), strict=True):
        for rank, row in enumerate(dict.fromkeys(rows.tolist()), 1):
            total[row] = total.get(row, 0.0) + weight / (constant + rank)
    return _ordered(total, decimals=12)  # neighbouring ranks are 1e-4 apart, and sums of few terms are exact


def min_max_sum(
    lists: Sequence[Rows], scores: Sequence[NDArray], weights: Sequence[float] | None = None
) -> tuple[Rows, NDArray[np.float64]]:
    """The weighted sum of scores that are stretched to 0 ... 1 in each list; absent adds nothing.

    ``scores`` are aligned with ``lists``. A list whose scores are all equal gives each of its rows 1.

    >>> rows, scores = min_max_sum([np.array([3, 4])], [np.array([9.0, 5.0])])
    >>> rows.tolist(), scores.tolist()
    ([3, 4], [1.0, 0.0])
    """
    total: dict[int, float] = {}
    for rows, values, weight in zip(lists, scores, _checked(weights, len(lists)), strict=True):
        if not len(rows):
            continue
        low, high = float(np.min(values)), float(np.max(values))
        seen: set[int] = set()
        for row, value in zip(rows.tolist(), values.tolist(), strict=True):
            if row not in seen:
                seen.add(row)
                share = (value - low) / (high - low) if high > low else 1.0
                total[row] = total.get(row, 0.0) + weight * share
    return _ordered(total)


def diverse(relevance: Sequence[float], likeness: NDArray, k: int, balance: float = 0.7) -> list[int]:
    """Maximal marginal relevance: places of ``k`` items, each new one relevant and unlike those before it.

    ``argmax of balance * relevance - (1 - balance) * max likeness to what is chosen`` (Carbonell and Goldstein 1998).

    Args:
        relevance: of each item to the query.
        likeness: ``(items, items)`` of items with each other, on the scale of ``relevance``.
        balance: 1 is relevance alone.

    >>> diverse([0.9, 0.89, 0.5], np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]]), 2)
    [0, 2]
    """
    chosen: list[int] = []
    left = list(range(len(relevance)))
    while left and len(chosen) < k:
        gains = [
            balance * relevance[item] - (1 - balance) * max((float(likeness[item, one]) for one in chosen), default=0.0)
            for item in left
        ]
        chosen.append(left.pop(gains.index(max(gains))))
    return chosen


def _ordered(total: dict[int, float], decimals: int = DECIMALS) -> tuple[Rows, NDArray[np.float64]]:
    found = sorted(total, key=lambda row: (-round(total[row], decimals), row))
    return np.array(found, np.int64), np.array([total[row] for row in found], np.float64)


def _checked(weights: Sequence[float] | None, count: int) -> Sequence[float]:
    if weights is None:
        return [1.0] * count
    if len(weights) != count or any(weight < 0 for weight in weights):
        what = f"{count} rankings have {len(weights)} weights, or one is negative"
        raise SettingsError(what, where="fusion", mend="give one weight for each, none negative")
    return weights
