"""Exact match, token F1 and longest common subsequence agree with formulas that are written differently."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.numerics.text_scores import exact_match, lcs_ratio, longest_common_subsequence, normalise_answer, token_f1

WORDS = st.lists(st.sampled_from(["oslo", "rome", "new", "york", "river"]), max_size=6).map(" ".join)


def by_recursion(one: str, other: str) -> int:
    """The textbook recursion over prefixes."""

    @cache
    def length(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return 0
        if one[i - 1] == other[j - 1]:
            return length(i - 1, j - 1) + 1
        return max(length(i - 1, j), length(i, j - 1))

    return length(len(one), len(other))


@given(st.text("abc", max_size=12), st.text("abc", max_size=12))
def test_the_longest_common_subsequence_is_that_of_the_recursion(one: str, other: str) -> None:
    assert longest_common_subsequence(one, other) == by_recursion(one, other)


@given(WORDS, WORDS)
def test_token_f1_is_the_harmonic_mean_of_precision_and_recall(one: str, other: str) -> None:
    said, wanted = Counter(one.split()), Counter(other.split())
    hits = sum(min(said[word], wanted[word]) for word in said)
    if hits == 0:
        assert token_f1(one, other) == 0
        return
    precision, recall = hits / sum(said.values()), hits / sum(wanted.values())
    assert token_f1(one, other) == pytest.approx(2 * precision * recall / (precision + recall))


@given(st.text(max_size=20))
def test_a_text_scores_1_against_itself_and_nothing_scores_0(text: str) -> None:
    full = bool(text.strip())
    for score in (exact_match, token_f1, lcs_ratio):
        assert score(text, text) == float(full)
        assert score("", text) == 0
        assert 0 <= score(text, "Oslo") <= 1


@given(WORDS, WORDS)
def test_every_score_is_symmetric(one: str, other: str) -> None:
    for score in (exact_match, token_f1, lcs_ratio):
        assert score(one, other) == pytest.approx(score(other, one))


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The United States, of America!", "united states of america"),
        ("U.S.", "us"),
        ("an  apple a day", "apple day"),
        ("theatre", "theatre"),
        ("A", "a"),
        ("C++", "c"),
        ("+", "+"),
        ("", ""),
        ("«Åland»", "åland"),
    ],
)
def test_normalisation_is_that_of_squad_but_leaves_something(text: str, normal: str) -> None:
    assert normalise_answer(text) == normal


def test_the_unit_decides_what_a_common_subsequence_is_of() -> None:
    assert lcs_ratio("Republic of Kongo", "Republic of Congo") == pytest.approx(16 / 17)
    assert lcs_ratio("Republic of Kongo", "Republic of Congo", unit="tokens") == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="letters"):
        lcs_ratio("a", "b", unit="letters")  # type: ignore[arg-type]
