"""Points that no other point beats."""

from __future__ import annotations

from collections.abc import Sequence


def undominated(points: Sequence[Sequence[float]]) -> list[bool]:
    """Which points no other one equals or exceeds in every coordinate and exceeds in one.

    >>> undominated([(1.0, 3.0), (2.0, 2.0), (1.0, 2.0), (2.0, 2.0)])
    [True, True, False, True]
    """

    def beats(one: Sequence[float], other: Sequence[float]) -> bool:
        pairs = list(zip(one, other, strict=True))
        return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

    return [not any(beats(other, point) for other in points) for point in points]
