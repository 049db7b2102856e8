"""Many tests at once: p-values corrected so that the chance of even one false alarm stays at its level."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p-value corrected for the number of tests (Holm 1979), in the given order.

    The k-th smallest of m is multiplied by m - k + 1 and raised to the largest before it, at most 1.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Raises:
        ValueError: a value is no probability.
    """
    for p in p_values:
        if not 0 <= p <= 1:
            raise ValueError(f"{p} is no probability")
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min((len(p_values) - rank) * p_values[index], 1.0))
        corrected[index] = largest
    return corrected
