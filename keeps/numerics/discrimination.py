"""How well a score tells two classes apart: area under the curve, balanced accuracy, thresholds. Pure Python.

Sources:
    DeLong, DeLong, Clarke-Pearson, Biometrics 44 (1988): variance of the area from its placement values.
    Obuchowski, Biometrics 53 (1997): the same for clusters, such as the statements made of one fact.
    Zou and Donner, Statistics in Medicine 27 (2008): an interval of a sum from the intervals of its parts.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import Literal

from keeps.numerics.statistics import CONFIDENCE, Proportion, wilson


@dataclass(frozen=True)
class Area:
    """Area under the ROC curve in [0, 1] and its standard error; None where a class has a single cluster."""

    value: float
    error: float | None

    def interval(self, *, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
        """Normal interval, cut at 0 and 1."""
        if self.error is None:
            return None
        half = NormalDist().inv_cdf((1 + confidence) / 2) * self.error
        return max(0.0, self.value - half), min(1.0, self.value + half)


def roc_area(scores: Sequence[float], labels: Sequence[bool], clusters: Sequence[Hashable] | None = None) -> Area:
    """Probability that a positive scores above a negative, ties counting half, with its standard error.

    With X_i the placement of a positive (share of negatives below it) and Y_j that of a negative (share of
    positives above it), summed within clusters: Var = S10/m + S01/n + 2 S11/(m n). One item a cluster is DeLong's.

    Args:
        clusters: items that belong together; by default each stands alone.

    >>> roc_area([3.0, 2.0, 1.0, 0.0], [True, True, False, False]).value
    1.0

    Raises:
        ValueError: the lengths differ, a score is not finite, or one of the classes is missing.
    """
    items = list(zip(scores, labels, range(len(scores)) if clusters is None else clusters, strict=True))
    if not all(math.isfinite(score) for score, _, _ in items):
        raise ValueError("a score is not finite")
    high = sorted(score for score, label, _ in items if label)
    low = sorted(score for score, label, _ in items if not label)
    m, n = len(high), len(low)
    if not m or not n:
        raise ValueError("an area needs items of both classes")
    area = math.fsum(_below(low, score) for score in high) / (m * n)
    above: dict[Hashable, float] = {}  # of each cluster: its placements less what the area expects of them
    below: dict[Hashable, float] = {}
    for score, label, cluster in items:
        if label:
            above[cluster] = above.get(cluster, 0.0) + _below(low, score) / n - area
        else:
            below[cluster] = below.get(cluster, 0.0) + (m - _below(high, score)) / m - area
    if len(above) < 2 or len(below) < 2:
        return Area(area, None)
    both = set(above) | set(below)
    s10 = len(above) / ((len(above) - 1) * m) * math.fsum(value**2 for value in above.values())
    s01 = len(below) / ((len(below) - 1) * n) * math.fsum(value**2 for value in below.values())
    products = math.fsum(above.get(cluster, 0.0) * below.get(cluster, 0.0) for cluster in both)
    s11 = len(both) / (len(both) - 1) * products if clusters is not None else 0.0
    return Area(area, math.sqrt(max(0.0, s10 / m + s01 / n + 2 * s11 / (m * n))))


def balanced_accuracy(predicted: Sequence[bool | None], labels: Sequence[bool]) -> Proportion:
    """Mean of the shares of positives and of negatives that were told, with an interval from both Wilson intervals.

    None is an answer that says neither, and is wrong.

    Raises:
        ValueError: the lengths differ, or one of the classes is missing.
    """
    pairs = list(zip(predicted, labels, strict=True))
    sides = [[found is label for found, label in pairs if label is wanted] for wanted in (True, False)]
    if not all(sides):
        raise ValueError("balanced accuracy needs items of both classes")
    shares = [wilson(sum(side), len(side)) for side in sides]
    value = sum(share.value for share in shares) / 2
    down = math.hypot(*(share.value - share.low for share in shares)) / 2
    up = math.hypot(*(share.high - share.value for share in shares)) / 2
    return Proportion(value, max(0.0, value - down), min(1.0, value + up))


def calibrate_threshold(
    values: Sequence[float], labels: Sequence[bool], *, criterion: Literal["agreement", "f1"] = "agreement"
) -> tuple[float, float]:
    """The threshold τ for which ``value >= τ`` agrees best with the labels, and how well it does.

    Candidates lie halfway between neighbouring values, and beyond both ends; the highest of equals is taken, so
    that what was not labelled is matched with care.

    Args:
        criterion: share of pairs judged alike, or F1 of the pairs judged the same.

    >>> calibrate_threshold([0.2, 0.5, 0.9], [False, False, True])
    (0.7, 1.0)

    Raises:
        ValueError: the lengths differ, there is no pair, or the criterion is unknown.
    """
    pairs = sorted(zip(values, labels, strict=True))
    if not pairs or criterion not in ("agreement", "f1"):
        raise ValueError("a threshold needs labelled pairs, and agreement or f1 as criterion")
    ordered = [value for value, _ in pairs]
    distinct = sorted(set(ordered))
    candidates = [distinct[0], *((a + b) / 2 for a, b in pairwise(distinct))]
    candidates.append(math.nextafter(distinct[-1], math.inf))
    yes_from = [0]  # labels that say yes, summed from the lowest value
    for _, label in pairs:
        yes_from.append(yes_from[-1] + bool(label))
    best = (-1.0, 0.0)
    for tau in candidates:
        start = bisect_left(ordered, tau)
        hits, taken, yes = yes_from[-1] - yes_from[start], len(pairs) - start, yes_from[-1]
        agreement = (hits + start - (yes - hits)) / len(pairs)
        f1 = 2 * hits / (taken + yes) if hits else 0.0
        best = max(best, (agreement if criterion == "agreement" else f1, tau))
    return best[1], best[0]


def _below(ordered: Sequence[float], score: float) -> float:
    """How many of ``ordered`` are below ``score``; ties count half."""
    return (bisect_left(ordered, score) + bisect_right(ordered, score)) / 2
