"""Intervals and tests for shares, paired answers and means over seeds. Pure Python, no tensors.

Sources:
    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    McNemar, "Note on the sampling error of the difference between correlated proportions",
    Psychometrika 12 (1947); exact form as in Fagerland, Lydersen, Laake, BMC Med. Res. Methodol. 13:91 (2013).
    Student, "The probable error of a mean", Biometrika 6 (1908).
    Cochran, "Sampling Techniques", 3rd ed. (1977), chapter 6: the linearised ratio estimator.
    Particle Data Group, "Review of Particle Physics", introduction, section 5.3: rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Proportion:
    """A share in [0, 1] with the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A mean with the ends of its interval and the number of values behind it.

    ``low`` and ``high`` are None where there is no interval to give, such as for one value.
    """

    value: float
    low: float | None
    high: float | None
    n: int


def wilson(successes: float, n: int, *, confidence: float = CONFIDENCE) -> Proportion:
    """Wilson score interval of ``successes`` out of ``n``; it stays inside [0, 1] even at 0 and n.

    ``successes`` may be a sum of shares, one an independent unit; the interval is then rather too wide.
    With z the normal quantile: centre (p + z²/2n) / (1 + z²/n), half width
    z / (1 + z²/n) · sqrt(p(1-p)/n + z²/4n²).

    >>> share = wilson(8, 10)
    >>> round(share.low, 4), round(share.high, 4)
    (0.4902, 0.9433)

    Raises:
        ValueError: ``n`` is below 1 or ``successes`` is not in [0, n].
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"no share of {successes} out of {n}")
    z = _normal_quantile(confidence)
    p = successes / n
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)  # exact at the ends, whatever the rounding
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Proportion(p, low, high)


def flips(ours: Iterable[bool], others: Iterable[bool]) -> tuple[int, int]:
    """How many questions only the first side answers, and how many only the second: what McNemar's test counts.

    >>> flips([True, True, False, False], [True, False, False, True])
    (1, 1)

    Raises:
        ValueError: the sides are not of the same questions.
    """
    pairs = list(zip(ours, others, strict=True))
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)


def mcnemar_exact(learned: int, lost: int) -> float:
    """Two-sided exact McNemar p: a binomial test with 1/2 on the discordant pairs.

    Under the hypothesis that nothing changed, each flipped answer is as likely to be learned as
    lost: p = min(1, 2 · Σ_{k ≤ min} C(m, k) / 2^m) with m = learned + lost. Integers until the last
    division, so it does not underflow before the float does.

    >>> mcnemar_exact(learned=6, lost=0)
    0.03125

    Raises:
        ValueError: a count is negative.
    """
    if learned < 0 or lost < 0:
        raise ValueError(f"counts of flipped answers cannot be negative: {learned}, {lost}")
    flips = learned + lost
    term = tail = 1  # C(m, 0), and the sum so far
    for k in range(1, min(learned, lost) + 1):
        term = term * (flips - k + 1) // k
        tail += term
    return min(1.0, 2 * tail / 2**flips)


def mean_interval(values: Sequence[float], *, confidence: float = CONFIDENCE) -> Estimate:
    """Mean of independent values, such as one per seed, with Student's t interval.

    >>> mean_interval([1.0, 2.0, 3.0])  # doctest: +ELLIPSIS
    Estimate(value=2.0, low=-0.484..., high=4.484..., n=3)

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    n = len(values)
    if n == 0 or not all(math.isfinite(value) for value in values):
        raise ValueError("a mean needs at least one value, all of them finite")
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, None, 1)
    half = student_quantile(n - 1, confidence=confidence) * standard_deviation(values) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def standard_deviation(values: Sequence[float]) -> float:
    """Sample standard deviation (divided by n - 1); at least two values."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def paired_shift(before: Sequence[float], after: Sequence[float], *, confidence: float = CONFIDENCE) -> Estimate:
    """Mean of ``after - before`` over pairs, with Student's t interval on the differences.

    Raises:
        ValueError: the lengths differ, there is no pair, or a value is not finite.
    """
    return mean_interval([b - a for a, b in zip(before, after, strict=True)], confidence=confidence)


def ratio_shift(
    before: Sequence[float],
    before_sizes: Sequence[float],
    after: Sequence[float],
    after_sizes: Sequence[float],
    *,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Shift of a pooled ratio, Σafter/Σafter_sizes - Σbefore/Σbefore_sizes, paired over units.

    For text the units are passages, the numerators summed losses and the sizes token counts: the
    shift is that of the loss per token over all tokens. The interval is Student's t (n - 1 degrees
    of freedom) on the linearised residuals e_i = (a_i - R_a s_i)/S_a - (b_i - R_b t_i)/S_b, whose
    variance is n/(n-1) · Σ e_i² (Cochran 1977, eq. 6.9, for a difference of paired ratios).

    Raises:
        ValueError: the lengths differ, there is no unit, or the sizes sum to zero.
    """
    pairs = list(zip(before, before_sizes, after, after_sizes, strict=True))
    size_before, size_after = math.fsum(before_sizes), math.fsum(after_sizes)
    if not pairs or size_before <= 0 or size_after <= 0:
        raise ValueError("a ratio needs at least one unit of positive size")
    ratio_before, ratio_after = math.fsum(before) / size_before, math.fsum(after) / size_after
    n, shift = len(pairs), ratio_after - ratio_before
    if n == 1:
        return Estimate(shift, None, None, 1)
    residuals = [(a - ratio_after * s) / size_after - (b - ratio_before * t) / size_before for b, t, a, s in pairs]
    error = math.sqrt(n / (n - 1) * math.fsum(e * e for e in residuals))
    half = student_quantile(n - 1, confidence=confidence) * error
    return Estimate(shift, shift - half, shift + half, n)


def student_quantile(freedom: int, *, confidence: float = CONFIDENCE) -> float:
    """The t with P(-t < T < t) = ``confidence`` under Student's distribution, by bisection to float precision.

    >>> round(student_quantile(2), 3)
    4.303
    """
    if freedom < 1 or not 0 < confidence < 1:
        raise ValueError(f"no quantile for {freedom} degrees of freedom at confidence {confidence}")
    low, high = 0.0, 2.0
    while _student_central(high, freedom) < confidence:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if _student_central(middle, freedom) < confidence:
            low = middle
        else:
            high = middle
    return high


def _student_central(t: float, freedom: int) -> float:
    """P(-t < T < t) as a finite sum (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    if freedom > 2000:  # the sum grows long; from here on the quantile by 26.7.8 is right to 1e-6
        z = t * (1 - 1 / (4 * freedom)) / math.sqrt(1 + t * t / (2 * freedom))
        return math.erf(z / math.sqrt(2))
    theta = math.atan(t / math.sqrt(freedom))
    cosine2, sine = math.cos(theta) ** 2, math.sin(theta)
    if freedom % 2 == 0:
        term = total = 1.0
        for k in range(1, freedom // 2):
            term *= cosine2 * (2 * k - 1) / (2 * k)
            total += term
        return sine * total
    term = total = math.cos(theta) if freedom > 1 else 0.0
    for k in range(1, (freedom - 1) // 2):
        term *= cosine2 * 2 * k / (2 * k + 1)
        total += term
    return 2 / math.pi * (theta + sine * total)


def decimals(half_width: float) -> int:
    """Decimal places that an interval of this half width allows, by the Particle Data Group's rule.

    The first three digits of the half width decide: up to 354 two digits of it are shown, from 355
    to 949 one, above that it counts as 1000. Never negative: whole numbers stay whole.

    >>> decimals(3.1), decimals(5.2), decimals(0.031), decimals(40)
    (1, 0, 3, 0)
    """
    if half_width <= 0 or not math.isfinite(half_width):
        return 0
    exponent = math.floor(math.log10(half_width))
    leading = round(half_width / 10.0**exponent * 100)
    if leading >= 1000:  # 9.996 rounds up to the next power
        exponent, leading = exponent + 1, 100
    if leading > 949:
        places = -exponent
    else:
        places = 1 - exponent if leading <= 354 else -exponent
    return max(0, places)


def shown(estimate: Estimate | Proportion, *, scale: float = 1.0, signed: bool = False, most: int = 6) -> str:
    """The value with no more digits than its interval allows; ``scale=100`` gives per cent.

    ``most`` caps the places where the interval is very narrow; without an interval three
    significant digits are shown, and those cannot claim precision: the caller says that n is 1.

    >>> shown(Estimate(0.4523, 0.421, 0.483, 100), scale=100), shown(wilson(3, 4), scale=100)
    ('45.2', '75')
    """
    value = estimate.value * scale
    if not math.isfinite(value):
        return "not finite"
    if estimate.low is None or estimate.high is None or estimate.high == estimate.low:
        places = max(0, min(most, 2 - (math.floor(math.log10(abs(value))) if value else 2)))
    else:
        places = min(most, decimals((estimate.high - estimate.low) / 2 * scale))
    return f"{value:{'+' if signed else ''}.{places}f}"


def shown_interval(estimate: Estimate | Proportion, *, scale: float = 1.0, signed: bool = False, most: int = 6) -> str:
    """``"low to high"`` with the digits of :func:`shown`; empty where there is no interval.

    >>> shown_interval(wilson(3, 4), scale=100)
    '30 to 95'
    """
    if estimate.low is None or estimate.high is None:
        return ""
    places = min(most, decimals((estimate.high - estimate.low) / 2 * scale))
    sign = "+" if signed else ""
    return f"{estimate.low * scale:{sign}.{places}f} to {estimate.high * scale:{sign}.{places}f}"


def _normal_quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not in (0, 1)")
    return NormalDist().inv_cdf((1 + confidence) / 2)
