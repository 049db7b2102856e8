"""The two-sample Kolmogorov-Smirnov test, exactly where that is possible. Pure Python.

Sources:
    Hodges, "The significance probability of the Smirnov two-sample test", Arkiv för Matematik 3 (1958): lattice paths.
    Kolmogorov (1933) and Smirnov (1948): the distribution for large samples.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

EXACT_UP_TO = 1_000_000  # product of the sample sizes: a second of whole-number arithmetic
_TERMS = 100


@dataclass(frozen=True)
class TwoSamples:
    """The largest distance of both distribution functions, and how likely one as large is of equal ones.

    ``p`` is 0 where it is below the smallest float; ``exact`` says whether it is exact (but for ties, which make it
    an upper bound) or that of large samples.
    """

    statistic: float
    p: float
    exact: bool


def kolmogorov_smirnov(one: Sequence[float], other: Sequence[float]) -> TwoSamples:
    """Two-sided test that both samples come from one distribution.

    With n and m values, D = max |F_n - F_m|. Each way in which the pooled values may be dealt out is a path on the
    n x m lattice; p = 1 - (paths on which the distance stays below D) / C(n + m, n), in whole numbers.

    >>> kolmogorov_smirnov([1.0, 2.0], [1.0, 2.0]).p
    1.0

    Raises:
        ValueError: a sample is empty or holds a value that is not finite.
    """
    n, m = len(one), len(other)
    if not n or not m or not all(math.isfinite(value) for value in (*one, *other)):
        raise ValueError("a test of two samples needs finite values in both")
    first, second = sorted(one), sorted(other)
    # n m times the distance, a whole number
    distance = max(abs(bisect_right(first, v) * m - bisect_right(second, v) * n) for v in (*first, *second))
    statistic = distance / (n * m)
    if distance == 0:
        return TwoSamples(0.0, 1.0, True)
    if n * m <= EXACT_UP_TO:
        return TwoSamples(statistic, _exact_p(n, m, distance), True)
    return TwoSamples(statistic, kolmogorov_tail(math.sqrt(n * m / (n + m)) * statistic), False)


def kolmogorov_tail(x: float) -> float:
    """P(K > x) of Kolmogorov's distribution: 2 Σ_k (-1)^(k-1) exp(-2 k² x²).

    >>> round(kolmogorov_tail(1.358), 3)
    0.05
    """
    if x < 0.2:  # the series converges slowly where the tail is 1 to fifteen places
        return 1.0
    total = math.fsum((-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, _TERMS + 1))
    return min(1.0, max(0.0, 2 * total))


def _exact_p(n: int, m: int, distance: int) -> float:
    """Share of lattice paths from (0, 0) to (n, m) that reach |i m - j n| >= ``distance`` somewhere."""
    inside = [0] * (m + 1)  # paths to (i, j) that never do, for the current i
    for i in range(n + 1):
        for j in range(m + 1):
            if abs(i * m - j * n) >= distance:
                inside[j] = 0
            elif i == 0 and j == 0:
                inside[j] = 1
            elif j:
                inside[j] += inside[j - 1]  # what was here came from the left neighbour in i
    total = comb(n + m, n)
    return (total - inside[m]) / total
