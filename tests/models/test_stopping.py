"""Where an answer ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.models.stopping import StopRule

RULE = StopRule(("\n",), sentence=True)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" Paris.", "Paris"),
        (" Paris. It is", "Paris"),
        (" Paris\nThe capital", "Paris"),
        (" St. John's.", "St. John's"),
        (" Washington, D.C. and", "Washington, D.C. and"),
        (" 26. It", "26"),
        (" 26.", "26"),
        (" 3.14 metres", "3.14 metres"),
        (" Mt. Everest!", "Mt. Everest"),
        (" Übersee? Nein", "Übersee"),
        ("\n\nText", ""),
        (" .de", ".de"),
    ],
)
def test_an_answer_is_cut_at_its_line_or_sentence(text: str, answer: str) -> None:
    assert RULE.cut(text) == answer


def test_without_the_sentence_rule_only_the_strings_count() -> None:
    assert StopRule(("\n", ";")).cut(" One. Two; three\n") == "One. Two"
    assert StopRule(()).cut(" One.\nTwo ") == "One.\nTwo"


@given(st.text("ab3. \n!", max_size=20), st.text("ab3. \n!", max_size=10))
def test_once_reached_nothing_that_follows_changes_the_cut(text: str, more: str) -> None:
    if RULE.reached(text):
        assert RULE.cut(text + more) == RULE.cut(text)
