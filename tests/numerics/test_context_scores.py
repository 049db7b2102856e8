"""EM, F1 and the two accuracies against plain definitions and values worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.numerics.context_scores import ContextScores, context_scores, in_words

WORDS = st.lists(st.sampled_from(["rome", "oslo", "the", "7", "42", "1915", "a-b", "x_y", "’s"]), max_size=5)


def test_texts_are_compared_in_lower_case_without_punctuation_and_articles_and_small_numbers_as_words() -> None:
    cases = {
        "The  New_York, N.Y.": "new york n y",
        "an Apple a day": "apple day",
        "9 to 10, 19, 20, 21 and 99": "nine to ten nineteen twenty twenty one and ninety nine",
        "007, 100 and 1915.": "seven 100 and 1915",
        "3.5": "three five",
        "Theatre": "theatre",
        "‘’´` ": "",
    }
    assert {text: in_words(text) for text in cases} == cases


@given(WORDS.map(" ".join))
def test_a_text_in_words_stays_as_it_is(text: str) -> None:
    assert in_words(in_words(text)) == in_words(text)


def test_the_two_accuracies_look_in_opposite_directions() -> None:
    long, short = context_scores(["It is Rome in Italy"], [["Rome"]]), context_scores(["Rome"], [["Rome in Italy"]])
    assert (long.accuracy, long.within) == (1.0, 0.0)
    assert (short.accuracy, short.within) == (0.0, 1.0)
    empty = context_scores([""], [["Rome"]])
    assert empty == ContextScores(0.0, 0.0, 0.0, 1.0)


def test_the_best_accepted_answer_counts_and_words_are_whole_unless_characters_are_asked_for() -> None:
    found = context_scores(["twenty-one"], [["Oslo", "21"]])
    assert found == ContextScores(1.0, 1.0, 1.0, 1.0)
    assert context_scores(["a woman"], [["Oman"]]).accuracy == 0.0
    assert context_scores(["a woman"], [["Oman"]], unit="characters").accuracy == 1.0


@given(WORDS, WORDS)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(said: list[str], wanted: list[str]) -> None:
    one, two = in_words(" ".join(said)).split(), in_words(" ".join(wanted)).split()
    left, common = list(two), 0
    for word in one:
        if word in left:
            left.remove(word)
            common += 1
    expected = 0.0
    if common:
        precision, recall = common / len(one), common / len(two)
        expected = 2 * precision * recall / (precision + recall)
    assert context_scores([" ".join(said)], [[" ".join(wanted)]]).f1 == pytest.approx(expected)


def test_nothing_to_score_and_answers_that_are_no_list_are_refused() -> None:
    for predictions, answers in (([], []), (["a"], []), (["a"], [[]]), (["a"], ["a"])):
        with pytest.raises(ValueError, match="answers"):
            context_scores(predictions, answers)
