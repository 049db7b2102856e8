"""Slot values, BLEU and mentions against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.numerics.dialog_scores import (
    SlotCounts,
    find_values,
    mention_score,
    sentence_bleu,
    slot_counts,
    success_at,
    yes_probability,
)

ONTOLOGY = {"area": ["north", "south", "north side"], "phone": ["01223 4567"], "parking": ["yes", "no"]}


def test_one_right_and_one_wrong_value_give_a_half_and_one_hallucination() -> None:
    values = {"phone": ["1"], "area": ["north", "south"]}
    gold, said = find_values("call 1, in the north", values), find_values("call 1, in the south", values)
    found = slot_counts(said, gold, entity=gold)
    assert (found.precision, found.recall, found.f1) == (0.5, 0.5, 0.5)
    assert (found.hallucinated, found.copy_precision) == (1, 0.5)


def test_the_longest_value_counts_and_its_span_only_once() -> None:
    assert find_values("It is on the North-Side.", ONTOLOGY) == {("area", "north side")}
    assert find_values("north of the north side", ONTOLOGY) == {("area", "north side"), ("area", "north")}


def test_a_span_that_is_nearly_a_value_counts_and_yes_and_no_never_do() -> None:
    assert find_values("Yes, no: call 01223 4568", ONTOLOGY) == {("phone", "01223 4567")}
    assert find_values("Yes, no: call 01223 4568", ONTOLOGY, fuzzy=101) == set()
    assert find_values("northern", ONTOLOGY) == set()


def test_micro_averages_add_counts_and_not_shares() -> None:
    both = SlotCounts(1, 1, 3, 1) + SlotCounts(0, 3, 1, 0)
    assert (both.precision, both.recall, both.f1) == (0.25, 0.25, 0.25)
    assert SlotCounts().f1 == SlotCounts(0, 0, 2).precision == 0.0


def test_bleu_is_the_geometric_mean_of_clipped_shares_with_a_penalty_for_short_replies() -> None:
    # "one one cat" against "one cat sat down": unigrams 2/3 (one "one" is clipped), bigrams 1/2; r = 4, c = 3
    expected = math.exp(1 - 4 / 3) * math.sqrt(2 / 3 * 1 / 2)
    assert sentence_bleu("one one cat", "one cat sat down", 2) == pytest.approx(expected)
    assert sentence_bleu("b c d e", "b c d e") == pytest.approx(1.0)
    assert sentence_bleu("b c d", "b c d") == 0.0  # no four words, so nothing of them is shared


def test_bleu_reads_words_as_the_published_evaluation_does() -> None:
    # figures of its normalisation and nltk's sentence_bleu: no case, no punctuation, no articles
    said, wanted = "The phone of the Alpha-Lodge is 01223 315702.", "Its phone number is 01223 315702, at a lodge."
    # 5 of 7 words and 2 of 6 pairs: "is 01223", "01223 315702"; r = 8, c = 7
    assert sentence_bleu(said, wanted, 1) == pytest.approx(math.exp(1 - 8 / 7) * 5 / 7)
    assert sentence_bleu(said, wanted, 2) == pytest.approx(math.exp(1 - 8 / 7) * math.sqrt(5 / 7 * 2 / 6))
    assert sentence_bleu("It is £5_a night", "it is £5 night") == pytest.approx(1.0)
    assert sentence_bleu("the", "a") == sentence_bleu("", "x", 1) == 0.0


@given(st.text(), st.text(), st.integers(1, 4))
def test_bleu_lies_between_nothing_and_all(one: str, other: str, order: int) -> None:
    assert 0.0 <= sentence_bleu(one, other, order) <= 1.0 + 1e-12


@given(st.floats(-50, 50), st.floats(-50, 50))
def test_the_label_probability_is_the_softmax_over_two(yes: float, no: float) -> None:
    top = max(yes, no)
    expected = math.exp(yes - top) / (math.exp(yes - top) + math.exp(no - top))
    assert yes_probability(yes, no) == pytest.approx(expected, abs=1e-12)


def test_success_needs_the_label_yes_as_well_as_the_place() -> None:
    ranked, labels = ["a", "b", "c"], [True, False, True]
    assert not success_at(ranked, labels, {"b", "c"}, 1)
    assert success_at(ranked, labels, {"b", "c"}, 2)  # b was labelled no, so c is second
    assert not success_at(ranked, labels, {"b"}, 3)


def test_a_name_is_mentioned_exactly_nearly_or_in_part_of_a_chunk() -> None:
    assert mention_score("alpha lodge", "the alpha lodge") == 100
    nearly = mention_score("alpha lodge", "the alpha lodgy")
    assert 80 <= nearly < 100
    # three of four words in a chunk with capitals: more than 70 per cent
    assert mention_score("alpha beta gamma lodge", "I like Alpha Beta Gamma.") == 100
    assert mention_score("alpha beta gamma lodge", "I like Alpha Beta.") == 0
    assert mention_score("", "anything") == 0
