"""When a filled blank is right, with the quirks of the published evaluation and without them."""

from __future__ import annotations

import pytest

from keeps.numerics.slot_scores import normalised_slot, slot_begins, slot_exact, slot_f1


@pytest.mark.parametrize(
    ("said", "answer", "compat", "default"),
    [
        ("Oslo", "oslo", True, True),
        ("  The  Hague. ", "Hague", True, True),
        ("an apple", "apple", True, True),
        ("U.S.", "us", True, True),
        ("cat-dog", "catdog", True, True),
        ("cat-dog", "cat dog", False, False),
        ("<extra_id_0> Oslo", "Oslo", False, True),
        ("<extra_id_0> Oslo</s>", "Oslo", False, True),
        ("Oslo <extra_id_1>", "Oslo", False, True),
        ("<pad> Oslo", "Oslo", False, True),
        ("Oslo, Norway", "Oslo", False, False),
        ("Bergen", "Oslo", False, False),
        ("", "the", True, False),
        ("theory", "ory", False, False),
        ("“Oslo”", "Oslo", False, False),  # only ASCII punctuation is taken out
    ],
)
def test_exact_match(said: str, answer: str, compat: bool, default: bool) -> None:
    assert slot_exact(said, [answer], compat=True) is compat
    assert slot_exact(said, [answer]) is default


def test_any_accepted_answer_counts() -> None:
    assert slot_exact("Joe Biden", ["Biden", "Joe Biden"])
    assert not slot_exact("Joe Biden", [])


@pytest.mark.parametrize(
    ("said", "right"),
    [("New York, the city", True), ("the New York", True), ("New Yorkers", False), ("New", False), ("", False)],
)
def test_a_beginning_is_whole_words(said: str, right: bool) -> None:
    assert slot_begins(said, ["New York"]) is right


def test_an_answer_of_which_nothing_is_left_is_never_begun_with() -> None:
    assert not slot_begins("anything", ["the"])
    assert not slot_begins("anything", ["..."])


def test_f1_is_the_best_over_answers() -> None:
    assert slot_f1("the great city of York", ["York", "great city"]) == pytest.approx(2 * 2 / (4 + 2))
    assert slot_f1("Oslo", ["Bergen"]) == 0
    assert slot_f1("", ["the"]) == 0


def test_the_sentinel_survives_as_in_the_published_evaluation() -> None:
    assert normalised_slot("<extra_id_0> Oslo", compat=True) == "extraid0 oslo"
    assert normalised_slot("<extra_id_0> Oslo") == "oslo"
