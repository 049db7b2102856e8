"""Arithmetic and dates that somebody else wrote: read by a parser with limits, never evaluated as code.

    expression = term (("+" | "-") term)*          term = power (("*" | "/" | "//" | "%") power)*
    power = sign atom ("**" power)?                atom = number | "(" expression ")" | name "(" expression, ... ")"

Numbers are exact fractions; ``sqrt`` is exact of squares and rounded to 50 digits of others. Every number stays below
a fixed size, so that no expression can fill the memory or run for long.
"""

from __future__ import annotations

import calendar
import math
import re
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from decimal import Context, Decimal
from fractions import Fraction

from keeps.errors import ToolError

LONGEST = 300  # characters of an expression
DEEPEST = 40  # nested brackets and signs
LARGEST = 4096  # bits of a numerator or denominator
DIGITS = 15  # that are shown of a number that is not whole
_SPELLINGS = {"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "^": "**"}
_TOKEN = re.compile(r"\s*(?:(?P<number>\d+(?:\.\d+)?|\.\d+)|(?P<name>[a-z]+)|(?P<sign>\*\*|//|[-+*/%(),]))", re.ASCII)
_GROUPED = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?![\d,])")
_DATE = r"(\d{4})-(\d{1,2})-(\d{1,2})"
_UNITS = r"(days?|weeks?|months?|years?)"


def calculate(text: str) -> Fraction:
    """The value of an expression: ``+ - * / // % **``, brackets, and ``sqrt abs round min max``.

    Commas between groups of three digits are read as such, except inside a function's brackets.

    Raises:
        ToolError: it is no such expression, too long, too deep, or a number in it becomes too large.

    >>> calculate("(1,200 + 3) * 2^3"), calculate("sqrt(16) / 3")
    (Fraction(9624, 1), Fraction(4, 3))
    """
    if len(text) > LONGEST:
        raise _refused(f"the expression has more than {LONGEST} characters", "write a shorter one")
    plain = "".join(_SPELLINGS.get(letter, letter) for letter in text.strip().rstrip("=?. ").lower())
    if not re.search(r"[a-z]", plain):
        plain = _GROUPED.sub(lambda found: found.group().replace(",", ""), plain)
    parser = _Parser(_tokens(plain))
    value = parser.expression(0)
    if parser.place < len(parser.tokens):
        raise _refused(f'"{parser.tokens[parser.place]}" is not expected there', "write numbers and + - * / ( )")
    return value


def written(value: Fraction) -> str:
    """A number as people write it: whole, or up to fifteen digits.

    >>> written(Fraction(10, 4)), written(Fraction(1, 3)), written(Fraction(7))
    ('2.5', '0.333333333333333', '7')
    """
    if value.denominator == 1:
        return str(value.numerator) if value.numerator.bit_length() < LARGEST else f"{Decimal(value.numerator):.6e}"
    context = Context(prec=DIGITS)
    rounded = context.divide(Decimal(value.numerator), Decimal(value.denominator))
    return f"{rounded.normalize(context):f}" if -20 < rounded.adjusted() < 20 else f"{rounded:e}"


def date_arithmetic(text: str) -> str:
    """``DATE + N days`` (or ``weeks``, ``months``, ``years``; or ``-``), ``DATE - DATE`` in days, ``weekday DATE``.

    Dates are ``YYYY-MM-DD`` of the proleptic Gregorian calendar, years 1 to 9999. A month or year later is the same
    day of that month, or its last one where it has no such day.

    Raises:
        ToolError: it is none of these, or a date does not exist.

    >>> date_arithmetic("2024-01-31 + 1 month"), date_arithmetic("2024-03-01 - 2024-02-01")
    ('2024-02-29', '29 days')
    """
    plain = " ".join(text.strip().rstrip("?.").lower().replace("−", "-").split())[:LONGEST]
    if found := re.fullmatch(rf"(?:weekday(?: of)?|day of (?:the )?week(?: of)?) {_DATE}", plain, re.ASCII):
        return calendar.day_name[_date(found.groups()).weekday()]
    if found := re.fullmatch(rf"{_DATE} - {_DATE}", plain, re.ASCII):
        return f"{(_date(found.groups()[:3]) - _date(found.groups()[3:])).days} days"
    if found := re.fullmatch(rf"days (?:from|between) {_DATE} (?:to|and) {_DATE}", plain, re.ASCII):
        return f"{(_date(found.groups()[3:]) - _date(found.groups()[:3])).days} days"
    if found := re.fullmatch(rf"{_DATE} ([+-]) (\d{{1,7}}) {_UNITS}", plain, re.ASCII):
        start, count = _date(found.groups()[:3]), int(found.group(5)) * (1 if found.group(4) == "+" else -1)
        return _moved(start, count, found.group(6).rstrip("s")).isoformat()
    mend = "write 2024-01-31 + 3 days, 2024-03-01 - 2024-02-01, or weekday 2024-02-29"
    raise _refused("this is no question about dates that is known", mend)


def _date(parts: Sequence[str]) -> date:
    try:
        return date(*(int(part) for part in parts))
    except ValueError:
        raise _refused(f"there is no date {'-'.join(parts)}", "give a date that exists, as 2024-02-29") from None


def _moved(start: date, count: int, unit: str) -> date:
    try:
        if unit in ("day", "week"):
            return start + timedelta(days=count * (7 if unit == "week" else 1))
        months = start.year * 12 + start.month - 1 + count * (12 if unit == "year" else 1)
        year, month = divmod(months, 12)
        last = calendar.monthrange(year, month + 1)[1]
        return date(year, month + 1, min(start.day, last))
    except (OverflowError, ValueError, IndexError):
        raise _refused("the date lies outside the years 1 to 9999", "take a smaller step") from None


def _tokens(text: str) -> list[str]:
    found, place = [], 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            if not text[place:].strip():
                break
            raise _refused(f'"{text[place:].strip()[:10]}" is no number and no sign', "write numbers and + - * / ( )")
        found.append(match.group().strip())
        place = match.end()
    if not found:
        raise _refused("the expression is empty", "write numbers and + - * / ( )")
    return found


class _Parser:
    """Recursive descent over tokens; ``depth`` counts the brackets and signs around a part."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens, self.place = tokens, 0

    def expression(self, depth: int) -> Fraction:
        return self._chain({"+": lambda a, b: a + b, "-": lambda a, b: a - b}, self._term, depth)

    def _term(self, depth: int) -> Fraction:
        signs = {"*": lambda a, b: a * b, "/": _divided, "//": lambda a, b: Fraction(_divided(a, b).__floor__())}
        return self._chain({**signs, "%": lambda a, b: a - b * _divided(a, b).__floor__()}, self._power, depth)

    def _chain(
        self, signs: dict[str, Callable[[Fraction, Fraction], Fraction]], part: Callable[[int], Fraction], depth: int
    ) -> Fraction:
        value = part(depth)
        while self._next() in signs:
            value = _bounded(signs[self._take()](value, part(depth)))
        return value

    def _power(self, depth: int) -> Fraction:
        if depth > DEEPEST:
            raise _refused(f"the expression is nested deeper than {DEEPEST}", "write a simpler one")
        if self._next() in ("-", "+"):
            return -self._power(depth + 1) if self._take() == "-" else self._power(depth + 1)
        base = self._atom(depth)
        if self._next() == "**":
            self._take()
            return _raised(base, self._power(depth + 1))
        return base

    def _atom(self, depth: int) -> Fraction:
        token = self._take()
        if token[0].isdigit() or token[0] == ".":
            return _bounded(Fraction(token))
        if token == "(":
            value = self.expression(depth + 1)
            self._expect(")")
            return value
        if token in _FUNCTIONS:
            self._expect("(")
            values = [self.expression(depth + 1)]
            while self._next() == ",":
                self._take()
                values.append(self.expression(depth + 1))
            self._expect(")")
            return _bounded(_called(token, values))
        names = ", ".join(_FUNCTIONS)
        raise _refused(f'"{token}" is not expected there', f"write numbers, + - * / ( ), and {names}")

    def _next(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def _take(self) -> str:
        token = self._next()
        if not token:
            raise _refused("the expression ends too early", "write the rest of it")
        self.place += 1
        return token

    def _expect(self, wanted: str) -> None:
        if self._take() != wanted:
            raise _refused(f'"{wanted}" is missing', "close every bracket")


def _divided(a: Fraction, b: Fraction) -> Fraction:
    if b == 0:
        raise _refused("something is divided by zero", "divide by another number")
    return a / b


def _raised(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        if exponent == Fraction(1, 2):
            return _root(base)
        raise _refused("powers are whole numbers, or 1/2", "use sqrt, or a whole number")
    power = exponent.numerator
    if base == 0 and power < 0:
        raise _refused("something is divided by zero", "divide by another number")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if (bits > 1 and bits * abs(power) > 2 * LARGEST) or abs(power) > 2 * LARGEST:  # before it is formed
        raise _refused("a number becomes too large", "take a smaller power")
    return _bounded(base**power)


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise _refused("a negative number has no square root here", "take the root of a positive one")
    roots = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if roots[0] ** 2 == value.numerator and roots[1] ** 2 == value.denominator:
        return Fraction(*roots)
    scale = 10**50
    return Fraction(math.isqrt(value.numerator * scale**2 // value.denominator), scale)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > LARGEST:
        raise _refused("a number becomes too large", "write a smaller expression")
    return value


def _called(name: str, values: Sequence[Fraction]) -> Fraction:
    most, function = _FUNCTIONS[name]
    if len(values) > most:
        raise _refused(f"{name} takes {most} number{'s' * (most > 1)}", "leave the others out")
    return function(values)


def _rounded(values: Sequence[Fraction]) -> Fraction:
    digits = values[1] if len(values) > 1 else Fraction(0)
    if digits.denominator != 1 or not 0 <= digits <= 50:
        raise _refused("numbers are rounded to 0 to 50 digits", "give a whole number of digits")
    return Fraction(round(values[0], digits.numerator))


_FUNCTIONS: dict[str, tuple[int, Callable[[Sequence[Fraction]], Fraction]]] = {
    "sqrt": (1, lambda values: _root(values[0])),
    "abs": (1, lambda values: abs(values[0])),
    "round": (2, _rounded),
    "min": (50, min),
    "max": (50, max),
}


def _refused(what: str, mend: str) -> ToolError:
    return ToolError(what, mend=mend)
