"""The classes of years and facts, by the card's own examples and by formulas written another way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.numerics.chronology import (
    CORRECT,
    HIGHLY,
    INCORRECT,
    KNOWN,
    MAYBE,
    NOT_KNOWN,
    PARTIAL_1,
    PARTIAL_2,
    PARTIAL_KNOWN,
    STARTS,
    STOPS,
    UNKNOWN,
    WEAKLY,
    YEAR_CLASSES,
    element_class,
    exact_match,
    fuzzy_match,
    mode,
    recovered_class,
    slick_class,
    unread,
    year_class,
)

LETTERS = {"C": CORRECT, "P": PARTIAL_1, "S": PARTIAL_2, "I": INCORRECT}
told = st.lists(st.sampled_from([True, False, None]), max_size=6)
years = st.lists(st.sampled_from(YEAR_CLASSES), min_size=1, max_size=9)


@pytest.mark.parametrize(
    ("greedy", "sampled", "expected"),
    [
        ([True, True], [False], CORRECT),
        ([True, False], [False], PARTIAL_1),
        ([False, False], [False, True], PARTIAL_2),
        ([None, None], [None, True], PARTIAL_2),
        ([False, False], [False], INCORRECT),
        ([], [], INCORRECT),
        ([None], [None], INCORRECT),
        ([True, None], [], CORRECT),
    ],
)
def test_the_class_of_a_year(greedy: list[bool | None], sampled: list[bool | None], expected: str) -> None:
    assert year_class(greedy, sampled) == expected


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        ("CCII", STOPS),
        ("IICC", STARTS),
        ("PSII", STOPS),
        ("CIC", PARTIAL_KNOWN),
        ("ICI", PARTIAL_KNOWN),
        ("CCC", KNOWN),
        ("CPC", PARTIAL_KNOWN),
        ("II", UNKNOWN),
        ("I", UNKNOWN),
        ("P", PARTIAL_KNOWN),
    ],
)
def test_the_class_of_a_fact(sequence: str, expected: str) -> None:
    assert element_class([LETTERS[letter] for letter in sequence]) == expected


@given(years)
def test_a_cut_off_is_what_has_one_boundary(sequence: list[str]) -> None:
    """By where the first and the last known year are, instead of by counting changes."""
    known = [n for n, name in enumerate(sequence) if name != INCORRECT]
    whole = bool(known) and len(known) == known[-1] - known[0] + 1 and len(known) < len(sequence)
    stops, starts = whole and known[0] == 0, whole and known[-1] == len(sequence) - 1
    found = element_class(sequence)
    assert (found == STOPS) == stops
    assert (found == STARTS) == starts
    assert (found == KNOWN) == (set(sequence) == {CORRECT})
    assert (found == UNKNOWN) == (not known)


@given(years)
def test_reversed_years_swap_the_two_kinds_of_cut_off_and_nothing_else(sequence: list[str]) -> None:
    swapped = {STOPS: STARTS, STARTS: STOPS}
    found = element_class(sequence)
    assert element_class(sequence[::-1]) == swapped.get(found, found)


@given(told.filter(bool), told)
def test_slick_and_the_class_of_a_year_differ_by_unread_outputs_alone(
    greedy: list[bool | None], sampled: list[bool | None]
) -> None:
    names = {CORRECT: HIGHLY, PARTIAL_1: MAYBE, PARTIAL_2: WEAKLY, INCORRECT: NOT_KNOWN}
    assert slick_class(greedy, sampled) == names[year_class(greedy, sampled, failures="wrong")]
    if None not in greedy:
        assert year_class(greedy, sampled) == year_class(greedy, sampled, failures="wrong")


@given(told, told)
def test_unread_years_are_incorrect(greedy: list[bool | None], sampled: list[bool | None]) -> None:
    if unread(greedy, sampled):
        assert year_class(greedy, sampled) == INCORRECT


def subsequence(a: str, b: str) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        row = [0, *row[1:]]
        before = 0
        for n, y in enumerate(b, 1):
            before, row[n] = row[n], before + 1 if x == y else max(row[n], row[n - 1])
    return row[-1]


def test_the_helper_of_the_next_test_counts_subsequences() -> None:
    assert subsequence("abcde", "xbyd") == 2


def ratio(a: str, b: str) -> float:
    return 100 * 2 * subsequence(a, b) / (len(a) + len(b)) if a or b else 100.0


def token_set_ratio(a: str, b: str) -> float:
    """The published definition: the best ratio of the common words, and these with the rest of either side."""
    one, other = set(a.split()), set(b.split())
    if not one or not other:
        return 0.0
    common = " ".join(sorted(one & other))
    if common and (one <= other or other <= one):
        return 100.0
    left = " ".join(sorted(one - other))
    right = " ".join(sorted(other - one))
    first, second = f"{common} {left}".strip(), f"{common} {right}".strip()
    best = ratio(first, second)
    return max(best, ratio(common, first), ratio(common, second)) if common else best


words = st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=4).map(" ".join)


@given(words, words, st.sampled_from([40.0, 60.0, 70.0, 85.0]))
def test_fuzzy_matches_are_those_of_the_token_set_ratio(said: str, wanted: str, threshold: float) -> None:
    expected = token_set_ratio(said, wanted)
    if abs(expected - threshold) > 1e-6:
        assert fuzzy_match(said, [wanted], threshold=threshold) == (expected >= threshold)


@given(words, st.lists(words, min_size=1, max_size=3), st.integers(1, 5))
def test_exact_matches_are_fuzzy_ones(said: str, objects: list[str], shortest: int) -> None:
    if exact_match(said, objects):
        assert fuzzy_match(said, objects, shortest_token=shortest)


def test_short_words_match_by_themselves_unless_they_are_left_out() -> None:
    assert fuzzy_match("fc", ["Chelsea FC"])
    assert not fuzzy_match("fc", ["Chelsea FC"], shortest_token=3)
    assert fuzzy_match("FC", ["fc"], shortest_token=3)
    assert not fuzzy_match("", ["Oslo"])


def test_exact_matches_ignore_case_spaces_and_a_full_stop() -> None:
    assert exact_match(" arsenal  F.C. ", ["Arsenal F.C."])
    assert exact_match("Oslo.", ["Bergen", "oslo"])
    assert not exact_match("", [""])
    assert not exact_match("Chelsea", ["Chelsea FC"])


def test_the_mode_is_the_first_of_the_most_frequent_in_lower_case() -> None:
    assert mode(["Bergen", "Oslo", "OSLO", "bergen"]) == "bergen"
    assert mode([]) is None


def test_only_partially_known_facts_become_known() -> None:
    assert recovered_class({1: CORRECT, 2: INCORRECT, 3: CORRECT}, [2]) == KNOWN
    assert recovered_class({1: CORRECT, 2: INCORRECT, 3: PARTIAL_1}, [2]) == PARTIAL_KNOWN
    assert recovered_class({1: CORRECT, 2: INCORRECT}, [2]) == STOPS
    assert recovered_class({10: INCORRECT, 9: CORRECT}, []) == STOPS  # years count in their own order


def test_nothing_has_no_class() -> None:
    with pytest.raises(ValueError, match="no classes"):
        element_class([])
    with pytest.raises(ValueError, match="no classes"):
        element_class(["chrono-known"])
    with pytest.raises(ValueError, match="no greedy"):
        slick_class([], [True])
