"""How a text that was learned leaks into other answers: memorisation, priming, and its forecast. Pure Python.

Source: Sun et al., "How new data permeates LLM knowledge and how to dilute it", ICLR 2025 (arXiv:2504.09522).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Reduce = Literal["mean_ratio", "mean_log10"]
THRESHOLD = 1e-3  # keywords less probable than this before learning prime
LIMIT = 12.0  # orders of magnitude at which a ratio is cut off


def log10_ratio(before: float, after: float) -> float:
    """log10 (P_after / P_before) from natural log-probabilities, cut off at 12 orders of magnitude; 0 of equal ones.

    >>> round(log10_ratio(math.log(0.001), math.log(0.1)), 6)
    2.0
    """
    if before == after:
        return 0.0  # of two probabilities of 0 too
    return max(-LIMIT, min(LIMIT, (after - before) / math.log(10)))


def memorisation_score(before: float, after: float) -> float:
    """log10 S_mem = log10 P_after(x_key | X_c) / P_before(x_key | X_c), from natural log-probabilities."""
    return log10_ratio(before, after)


def priming_score(before: Sequence[float], after: Sequence[float], *, reduce: Reduce = "mean_ratio") -> float:
    """log10 S_prime over the thematic prefixes X_T,j, from natural log-probabilities of the keyword after each.

    Args:
        reduce: ``"mean_ratio"`` is log10 of mean_j P_after / P_before, as published; ``"mean_log10"`` is
            mean_j log10 (P_after / P_before), which one prefix alone cannot decide.

    Raises:
        ValueError: there is no prefix, the numbers of prefixes differ, or another reduction.
    """
    ratios = [log10_ratio(one, other) for one, other in zip(before, after, strict=True)]
    if not ratios:
        raise ValueError("priming needs a thematic prefix")
    if reduce == "mean_log10":
        return math.fsum(ratios) / len(ratios)
    if reduce != "mean_ratio":
        raise ValueError(f'no reduction "{reduce}": mean_ratio or mean_log10')
    return math.log10(math.fsum(10**ratio for ratio in ratios) / len(ratios))


def median(values: Sequence[float]) -> float:
    """The middle value, the mean of the two middle ones of an even number; ratios have heavy tails."""
    ordered, half = sorted(values), len(values) // 2
    if not ordered:
        raise ValueError("a median needs a value")
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1, equal values sharing the mean of theirs.

    >>> ranks([3.0, 1.0, 3.0])
    [2.5, 1.0, 2.5]
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for place in order[start:end]:
            found[place] = (start + 1 + end) / 2
        start = end
    return found


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's rank correlation: Pearson's of the ranks; None where one of both does not vary.

    Raises:
        ValueError: the lengths differ.
    """
    pairs = list(zip(ranks(one), ranks(other), strict=True))
    if len(pairs) < 2:
        return None
    centre = (len(pairs) + 1) / 2
    product = math.fsum((a - centre) * (b - centre) for a, b in pairs)
    spread = math.sqrt(math.fsum((a - centre) ** 2 for a, _ in pairs) * math.fsum((b - centre) ** 2 for _, b in pairs))
    return product / spread if spread else None


@dataclass(frozen=True)
class Bin:
    """Samples whose keyword had a probability in [low, high) before learning, and their mean log10 S_prime."""

    low: float
    high: float
    n: int
    mean: float | None


def priming_by_probability(
    before: Sequence[float], scores: Sequence[float], edges: Sequence[float] = (1e-5, 1e-4, THRESHOLD, 1e-2, 1e-1)
) -> list[Bin]:
    """Mean of log10 S_prime in bins of the keyword's probability before learning.

    Args:
        before: probabilities in [0, 1].
        scores: log10 S_prime of the same samples.
        edges: rising; the first bin begins at 0 and the last ends at 1, which it holds.
    """
    parts: list[list[float]] = [[] for _ in range(len(edges) + 1)]
    for probability, score in zip(before, scores, strict=True):
        parts[bisect_right(edges, probability)].append(score)
    ends = [0.0, *edges, 1.0]
    return [
        Bin(low, high, len(part), math.fsum(part) / len(part) if part else None)
        for low, high, part in zip(ends, ends[1:], parts, strict=False)
    ]
