"""When an answer counts as right: words and numbers must end, spelling may differ, other words may follow."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.probe.matching import matches, normalised

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = st.text(LETTERS, min_size=2, max_size=12).filter(lambda word: word not in ("an", "the"))
PHRASES = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)
ENDS = st.sampled_from(["", ".", ",", " and more", "\nThe capital", "; ", ")", "-", "'s", '"', " 7", "!"])
QUOTES = st.sampled_from(["", '"', "'", "“", "‘", "*", "**", "_", "`", " : "])


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        (" 47. It is a metal", "47", True),
        ("479", "47", False),
        ("4", "47", False),
        ("47", "4", False),
        ("3.5", "3", False),
        ("3.5", "3.5", True),
        ("3,500", "3", False),
        ("3, 4 and 5", "3", True),
        ("3.", "3", True),
        ("3. The next", "3", True),
        ("1898 in Paris", "1898", True),
        ("18980", "1898", False),
        ("x2", "2", False),
        ("10² units", "10", False),
        ("47th", "47", False),
        ("Oslo", "Oslo", True),
        ("OSLO,", "Oslo", True),
        ("Osloer", "Oslo", False),
        ("in Oslo", "Oslo", False),
        ("Nigeria", "Niger", False),
        ("Niger, a country", "Niger", True),
        ("the Netherlands", "Netherlands", True),
        ("Gambia", "The Gambia", True),
        ("a euro", "euro", True),
        ("Theatre", "atre", False),
        ("Ångström", "Angstrom", True),
        ("Sao Tome", "São Tomé", True),
        ("Cote d'Ivoire", "Côte d’Ivoire", True),
        ("“Oslo” is", "Oslo", True),
        ("**Oslo**", "Oslo", True),
        ("Oslo", '"Oslo"', True),
        ("New\n  York", "New York", True),
        ("A is right", "A", True),
        ("A", "B", False),
        ("a", "A", True),
        ("Straße", "STRASSE", True),
        ("* is the sign", "*", True),
        ("/ is the sign", "*", False),
        ("", "Oslo", False),
        ('"', "Oslo", False),
        ("Oslo", "", False),
        ("", "", False),
        ("Москва.", "москва", True),
        ("東京です", "東京", False),
        ("東京。", "東京", True),
    ],
)
def test_cases(text: str, answer: str, right: bool) -> None:
    assert matches(text, [answer]) is right


def test_one_accepted_answer_of_several_is_enough() -> None:
    assert matches("Myanmar", ["Burma", "Myanmar"])
    assert not matches("Siam", ["Burma", "Myanmar"])
    assert not matches("Siam", [])


@given(PHRASES, ENDS, QUOTES)
def test_an_answer_is_found_before_whatever_ends_its_last_word(phrase: str, end: str, quote: str) -> None:
    assert matches(f"{quote}{phrase}{quote}{end}", [phrase])


@given(PHRASES, st.sampled_from([str.upper, str.title, str.swapcase]))
def test_case_does_not_matter(phrase: str, change: object) -> None:
    assert matches(change(phrase), [phrase])  # type: ignore[operator]
    assert matches(phrase, [change(phrase)])  # type: ignore[operator]


@given(PHRASES, st.lists(st.sampled_from(["", "\u0301", "\u0308", "\u0327"]), min_size=60, max_size=60))
def test_accents_do_not_matter(phrase: str, accents: list[str]) -> None:
    pairs = zip(phrase, accents, strict=False)
    accented = "".join(letter if letter == " " else letter + accent for letter, accent in pairs)
    for form in ("NFC", "NFD"):
        assert matches(unicodedata.normalize(form, accented), [phrase])  # type: ignore[arg-type]
        assert matches(phrase, [unicodedata.normalize(form, accented)])  # type: ignore[arg-type]


@given(PHRASES, st.sampled_from(["the", "The", "a", "an"]))
def test_a_leading_article_does_not_matter(phrase: str, article: str) -> None:
    assert matches(f"{article} {phrase}", [phrase])
    assert matches(phrase, [f"{article} {phrase}"])


@given(PHRASES, st.text(LETTERS + "0123456789", min_size=1, max_size=3))
def test_a_word_that_goes_on_is_another_word(phrase: str, more: str) -> None:
    assert not matches(phrase + more, [phrase])


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_number_counts_only_as_itself(said: int, wanted: int) -> None:
    assert matches(f" {said}. That is", [str(wanted)]) is (said == wanted)


@given(st.integers(0, 999), st.sampled_from(".,"), st.integers(0, 999))
def test_a_number_with_a_fraction_is_another_number(whole: int, sign: str, fraction: int) -> None:
    assert not matches(f"{whole}{sign}{fraction}", [str(whole)])
    assert matches(f"{whole}{sign}{fraction}", [f"{whole}{sign}{fraction}"])


@given(st.text(max_size=30), st.text(max_size=12))
def test_any_text_can_be_compared_and_an_answer_matches_itself(text: str, answer: str) -> None:
    assert matches(text, [answer]) in (True, False)
    if answer.strip():
        assert matches(answer, [answer])


def test_what_is_compared_has_no_quotes_around_it() -> None:
    assert normalised("“The  Hague”*") == "hague"
    assert normalised("rock 'n' roll") == "rock 'n' roll"
