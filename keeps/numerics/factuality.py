"""How factual a text is by two classifiers and evidence, and which texts are kept: chances instead of a cut.

    vit(d, e) = (p_supports - p_refutes + 1) / 2
    s(d) = max over evidence e and no evidence of (vit(d, e) + kb(d, e)) / 2
    keep n of the 2 n best, drawn without replacement with chances ∝ exp(s)      (Knowledge Card, arXiv:2305.09955)

The best texts alone would be those that evidence knows already; drawn by chance, a text that no evidence can confirm
yet may stay too. The official code draws with chances ∝ s, and with replacement.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

DRAWS = ("exponential", "proportional", "best")
POOL = 2  # times as many texts as are kept may be drawn


def verified(supports: float, refutes: float) -> float:
    """vit in [0, 1] of a verifier's two probabilities; what it says is not decidable counts as halfway.

    >>> round(verified(0.8, 0.1), 12)
    0.85
    """
    return (supports - refutes + 1) / 2


def factuality(pairs: Sequence[tuple[float, float]]) -> float:
    """s(d) in [0, 1] of ``(vit, kb)`` for each piece of evidence.

    >>> round(factuality([(verified(0.8, 0.1), 0.6), (0.5, 0.5)]), 12)
    0.725
    """
    return max((vit + kb) / 2 for vit, kb in pairs)


def drawing_chances(scores: Sequence[float], way: str) -> list[float]:
    """What each of ``scores`` (0 or more) is drawn with first; they add up to 1, and are equal where all scores are 0.

    Args:
        way: ``"exponential"``, p ∝ exp(s), or ``"proportional"``, p ∝ s.

    >>> drawing_chances([0.75, 0.25], "proportional"), drawing_chances([0.0, 0.0], "proportional")
    ([0.75, 0.25], [0.5, 0.5])
    """
    if way == "exponential":
        return softmax(scores)
    total = math.fsum(scores)
    return [score / total for score in scores] if total > 0 else [1 / len(scores)] * len(scores)


def softmax(values: Sequence[float]) -> list[float]:
    """exp(v) / sum exp(v).

    >>> softmax([1000.0, 1000.0])
    [0.5, 0.5]
    """
    most = max(values)
    weights = [math.exp(value - most) for value in values]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def drawn_by_score(scores: Sequence[float], keep: int, way: str, chance: random.Random) -> list[int]:
    """Places of at most ``keep`` of ``scores``, highest first, none twice, all among the ``2 * keep`` highest.

    Args:
        way: one of :data:`DRAWS`; ``"best"`` takes the highest and draws nothing.
    """
    ranked = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    pool = ranked[: POOL * keep]
    if way == "best" or len(pool) <= keep:
        return pool[:keep]
    taken: list[int] = []
    while len(taken) < keep:
        left = [place for place in pool if place not in taken]
        chances = drawing_chances([scores[place] for place in left], way)
        taken += chance.choices(left, chances)
    return [place for place in ranked if place in taken]
