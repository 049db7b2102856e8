"""A predictor that falls back on a guess: what a model knows of facts of which it does not know all.

One answer that a model finds next to impossible costs more bits than many right ones gain, although a reader who
has the model may as well guess there. The mixture of model and guess is a predictor too,

    q(a) = s p(a) + (1 - s) g(a),       gain in bits on a fact: log2(q / g) = log2(s 2^d + 1 - s),   d = log2(p / g)

so its losses bound the bits in the weights like those of the model alone, once the bits that name s are taken off
(a two-part code, as in minimum description length: Rissanen, "Modeling by shortest data description", Automatica 14,
1978). There is one s, of 17 values, for all facts of a relation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

STEPS = 16
SHARES = tuple(step / STEPS for step in range(STEPS + 1))  # values of s, from the guess alone to the model alone
ALONE_BITS, OTHER_BITS = 1.0, 1.0 + math.log2(STEPS)  # of a code that names s: short for s = 1, equal for the others


@dataclass(frozen=True)
class Hedged:
    """The best mixture for some facts.

    Attributes:
        share: s, of the model.
        gains: bits a fact.
    """

    share: float
    gains: tuple[float, ...]

    @property
    def naming(self) -> float:
        """Bits that name s: 1 for the model alone, 5 for each of the other 16 values."""
        return ALONE_BITS if self.share == 1 else OTHER_BITS

    @property
    def total(self) -> float:
        """The sum of the gains less the bits that name s."""
        return math.fsum(self.gains) - self.naming


def hedged(gains: Sequence[float]) -> Hedged:
    """The mixture that gains most, what names its share taken off.

    >>> found = hedged([6.0, 6.0, -50.0])
    >>> found.share, round(found.total, 2)
    (0.6875, 4.26)
    >>> hedged([2.0, 2.0]).total
    3.0

    Args:
        gains: d = log2(p / g) of each fact, in bits; minus infinity where the model excludes the answer.

    Raises:
        ValueError: there is no fact.
    """
    if not gains:
        raise ValueError("no fact to predict")
    odds = [2.0**gain for gain in gains]
    mixtures = (Hedged(share, tuple(_gains(share, odds, gains))) for share in SHARES)
    return max(mixtures, key=lambda mixture: mixture.total)


def _gains(share: float, odds: Sequence[float], gains: Sequence[float]) -> list[float]:
    if share == 1:
        return list(gains)  # 2^d may have vanished
    return [math.log2(share * ratio + 1 - share) for ratio in odds]
