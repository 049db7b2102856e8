"""JSON as models write it: found, mended, limited."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.models.json_replies import field, read_choice, read_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
STATUS = ("true", "false")


@given(st.dictionaries(st.text(), VALUES, max_size=4), st.text(st.characters(exclude_characters="{}[]")))
def test_valid_json_is_read_as_json_reads_it_whatever_words_are_around_it(value: dict[str, Any], words: str) -> None:
    assert read_object(f"{words}{json.dumps(value)}{words}") == json.loads(json.dumps(value))


@given(st.text())
def test_any_text_gives_an_object_or_nothing(text: str) -> None:
    assert isinstance(read_object(text), dict | None)
    assert isinstance(read_object("{" + text), dict | None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```json\n{'Reason': 'so', Answer: Paris,}\n```", {"Reason": "so", "Answer": "Paris"}),
        ('{"Reason": "he said "no" twice", "Answer": "x"}', {"Reason": 'he said "no" twice', "Answer": "x"}),
        ('{"Answer": "cut off', {"Answer": "cut off"}),
        ('{"status": True, "other": None}', {"status": True, "other": None}),
        ('{"Reason": "line\nbreak", "Answer": 4}', {"Reason": "line\nbreak", "Answer": 4}),
        ('{not json} but {"Answer": "y"}', {"Answer": "y"}),
        ("no object", None),
        ("{" * 5000, None),
        ('{"a":' * 5000 + "1", None),
    ],
)
def test_broken_json_is_mended_and_deep_json_refused(text: str, expected: Any) -> None:
    assert read_object(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"status": true}', 0),
        ('{"status": "FALSE"}', 1),
        ('{"verdict": true}', None),
        ("True, because it is longer", 0),
        ("**false**", 1),
        ("not true", None),
        ("It is true", None),
        ("truely", None),
        ("", None),
    ],
)
def test_a_choice_is_named_by_its_key_or_the_first_word_and_by_nothing_else(text: str, expected: int | None) -> None:
    assert read_choice(text, STATUS, "status") == expected


def test_fields_are_found_in_any_case_and_other_types_written_out() -> None:
    found = {"answer": ["a", 1], "Reason": None, "OK": True}
    assert (field(found, "Answer"), field(found, "reason"), field(found, "ok")) == ('["a", 1]', "", "true")
    assert field(None, "x") == ""
