"""Dynamic time warping of two sequences: which elements of one stand beside which of the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.float64]


def warped_costs(cost: Costs) -> Costs:
    """D[i, j] = cost[i, j] + min(D[i-1, j-1], D[i-1, j], D[i, j-1]), the least cost of aligning up to i and j.

    Computed by anti-diagonals, whose cells do not depend on each other.

    Args:
        cost: ``(m, n)``, at least one of each.

    >>> warped_costs(np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])).tolist()
    [[0.0, 1.0], [1.0, 0.0], [2.0, 0.0]]
    """
    m, n = cost.shape
    padded = np.full((m + 1, n + 1), np.inf)
    padded[0, 0] = 0.0
    flat = padded.ravel()
    for diagonal in range(m + n - 1):
        i = np.arange(max(0, diagonal - n + 1), min(m, diagonal + 1))
        place = (i + 1) * (n + 1) + diagonal - i + 1
        best = np.minimum(flat[place - n - 2], np.minimum(flat[place - n - 1], flat[place - 1]))
        flat[place] = cost[i, diagonal - i] + best
    return padded[1:, 1:]


def warping_path(costs: Costs) -> list[tuple[int, int]]:
    """The cheapest path from the first pair to the last, of :func:`warped_costs`.

    Of equal ways back the diagonal one is taken, then up (the row advances), then left (FuseLLM, arXiv:2401.10491).

    >>> warping_path(warped_costs(np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])))
    [(0, 0), (1, 1), (2, 1)]
    """
    i, j = costs.shape[0] - 1, costs.shape[1] - 1
    path = [(i, j)]
    while i or j:
        ways = [(a, b) for a, b in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if a >= 0 and b >= 0]
        i, j = min(ways, key=lambda way: costs[way])  # the first of equals
        path.append((i, j))
    return path[::-1]
