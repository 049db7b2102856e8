"""The calculator agrees with exact fractions, refuses the rest by name, and cannot be made to work for long."""

from __future__ import annotations

import time
from datetime import date, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.errors import ToolError
from keeps.numerics.arithmetic import LARGEST, calculate, date_arithmetic, written

NUMBERS = st.integers(0, 999).map(lambda n: (str(n), Fraction(n)))
OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / b}
Part = tuple[str, Fraction]


def joined(parts: tuple[Part, str, Part]) -> Part:
    (a, x), sign, (b, y) = parts
    return (f"({a} {sign} {b})", OPERATIONS[sign](x, y)) if sign != "/" or y else (f"({a} - {b})", x - y)


TREES = st.recursive(NUMBERS, lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(joined), max_leaves=8)


@given(TREES)
def test_any_tree_has_its_exact_value(tree: Part) -> None:
    text, value = tree
    assert calculate(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 + 3 * 4", 14),
        ("2 * -3", -6),
        ("-2 ** 2", -4),
        ("2 ** 3 ** 2", 512),
        ("7 // 2 + 7 % 4", 6),
        ("-7 // 2", -4),
        ("1,234,567 + 1", 1234568),
        ("max(1, 2, 3) - min(4, 5)", -1),
        ("round(10 / 4)", 2),
        ("round(2 / 3, 2)", Fraction(67, 100)),
        ("sqrt(2.25) + abs(-1)", Fraction(5, 2)),
        ("4 ** (1/2)", 2),
        ("12 × 3 ÷ 4 − 1 =", 8),
        (".5 + 1.25", Fraction(7, 4)),
        ("2 ** -2", Fraction(1, 4)),
    ],
)
def test_signs_bind_as_in_mathematics(text: str, value: Fraction) -> None:
    assert calculate(text) == value


def test_numbers_are_written_as_people_write_them() -> None:
    cases = {"7": "7", "1/3": "0.333333333333333", "2.50": "2.5", "-1/8": "-0.125", "10**12": "1000000000000"}
    assert {text: written(calculate(text)) for text in cases} == cases
    assert written(calculate("1 / 10 ** 30")) == "1e-30"
    assert written(calculate("sqrt(2)")) == "1.4142135623731"


@pytest.mark.parametrize(
    "text",
    ["", " ", "1 +", "(1", "1)", "1 / 0", "2 ** 0.3", "9 ** 9 ** 9", "10 ** 9999", "__import__('os')", "1 if 1 else 2",
     "a", "sqrt(-1)", "sqrt", "abs(1, 2)", "0 ** -1", "1.2.3", "(" * 50 + "1" + ")" * 50, "-" * 60 + "1", "1" * 301,
     "round(1, 99)", "1e5", "²", "٣ + 1"],
)  # fmt: skip
def test_what_is_no_expression_or_too_much_is_refused_by_name(text: str) -> None:
    started = time.perf_counter()
    with pytest.raises(ToolError) as caught:
        calculate(text)
    assert caught.value.mend
    assert time.perf_counter() - started < 2


@given(st.text(alphabet="0123456789.+-*/%()^, sqrtabminxol", max_size=60))
def test_any_text_is_a_number_of_bounded_size_or_refused(text: str) -> None:
    try:
        value = calculate(text)
    except ToolError:
        return
    assert max(value.numerator.bit_length(), value.denominator.bit_length()) <= LARGEST
    assert written(value)


@given(st.dates(date(1, 1, 2), date(9990, 1, 1)), st.integers(-300, 300))
def test_days_are_counted_as_the_calendar_does(start: date, days: int) -> None:
    if not date.min.toordinal() <= start.toordinal() + days:
        return
    later = start + timedelta(days=days)
    sign = "+" if days >= 0 else "-"
    assert date_arithmetic(f"{start} {sign} {abs(days)} days") == str(later)
    assert date_arithmetic(f"{later} - {start}") == f"{days} days"
    assert date_arithmetic(f"days from {start} to {later}") == f"{days} days"
    assert date_arithmetic(f"weekday {start}") == start.strftime("%A")


def test_months_and_years_keep_the_day_or_take_the_last() -> None:
    cases = {
        "2024-01-31 + 1 month": "2024-02-29",
        "2023-03-31 - 1 month": "2023-02-28",
        "2024-02-29 + 1 year": "2025-02-28",
        "2024-11-15 + 2 months": "2025-01-15",
        "2024-01-01 - 1 week": "2023-12-25",
    }
    assert {text: date_arithmetic(text) for text in cases} == cases


@pytest.mark.parametrize("text", ["", "tomorrow", "2023-02-29 + 1 day", "9999-12-31 + 1 day", "0001-01-01 - 1 year",
                                  "2024-01-01 + 99999999 days", "9000-01-01 + 9999999 years"])  # fmt: skip
def test_dates_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(ToolError):
        date_arithmetic(text)
