"""Percentile bootstrap for figures that are no plain mean. Pure Python.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from keeps.numerics.statistics import CONFIDENCE

T = TypeVar("T")
DRAWS = 1000


def bootstrap_interval(
    samples: Sequence[Sequence[T]],
    statistic: Callable[[Sequence[Sequence[T]]], float],
    *,
    seed: int = 0,
    draws: int = DRAWS,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Ends between which the middle ``confidence`` of the statistic lies when every sample is drawn anew.

    Each sample is drawn with replacement, apart from the others and as large as it is.

    Raises:
        ValueError: a sample is empty.
    """
    if not samples or not all(samples):
        raise ValueError("a bootstrap needs something to draw from")
    chance = random.Random(seed)
    found = sorted(statistic([chance.choices(sample, k=len(sample)) for sample in samples]) for _ in range(draws))
    outside = int((1 - confidence) / 2 * draws)
    return found[outside], found[-1 - outside]
