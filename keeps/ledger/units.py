"""Quantities with units that people read: seconds, bytes, counts."""

from __future__ import annotations

import math


def quantity(value: float, unit: str) -> str:
    """``value`` to three significant digits in a fitting multiple of its unit (``"s"``, ``"bytes"`` or none).

    >>> quantity(95, "s"), quantity(4096, "s"), quantity(2.5e6, "bytes"), quantity(134_515_008, "")
    ('95 s', '1 h 8 min', '2.50 MB', '135 M')
    """
    if unit == "s":
        return duration(value)
    suffix = {"bytes": "B"}.get(unit, unit)
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{_three(value / size)} {prefix}{suffix}"
    return f"{_three(value)} {suffix}".rstrip()


def duration(seconds: float) -> str:
    """Seconds in words, such as ``"0.42 s"``, ``"13 min 20 s"`` or ``"1 h 8 min"``."""
    if seconds < 600:
        return f"{_three(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(minutes + rest / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def round_down(value: float, unit: str) -> float:
    """The largest round quantity not above ``value``: 1, 2 or 5 of a power of ten, or of minutes and hours.

    >>> round_down(319, "s"), round_down(79.8, "s"), round_down(1.3e8, "")
    (300, 60, 100000000.0)
    """
    if unit == "s" and value >= 10:
        steps = [count * size for size in (1, 60, 3600) for count in (1, 2, 5, 10, 20, 30)]
        return max(step for step in steps if step <= value)
    power = 10.0 ** math.floor(math.log10(value))
    return max(count * power for count in (1, 2, 5) if count * power <= value)


def _three(value: float) -> str:
    """Three significant digits; whole numbers below a thousand as they are."""
    if value == int(value) and abs(value) < 1000:
        return str(int(value))
    text = f"{value:#.3g}"
    return f"{float(text):.0f}" if "e+" in text else text.rstrip(".")
