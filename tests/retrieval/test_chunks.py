"""Chunks stand where they say, leave nothing out, and are no longer than asked for."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.errors import SettingsError
from keeps.retrieval.chunks import chunk_spans, count_units, sentence_spans
from keeps.retrieval.words import normalised, words_of

PIECES = [
    "One two three.",
    "Dr. Ek left!",
    "東京は大きい。",
    "x" * 250,
    "a b c d e f g h",
    "\n\n",
    "  ",
    "Ünï (yes). ",
    "[2]",
]
TEXTS = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join))


@given(TEXTS, st.integers(1, 12), st.integers(0, 3))
def test_every_character_that_is_no_blank_is_in_a_chunk_that_begins_and_ends_with_one(
    text: str, words: int, overlap: int
) -> None:
    spans = chunk_spans(text, words, overlap)
    covered = {place for start, end in spans for place in range(start, end)}
    assert {place for place, sign in enumerate(text) if not sign.isspace()} <= covered
    assert all(text[start:end] == text[start:end].strip() != "" for start, end in spans)


@given(TEXTS, st.integers(1, 12), st.integers(0, 3))
def test_chunks_go_forward_and_hold_at_most_so_many_words(text: str, words: int, overlap: int) -> None:
    spans = chunk_spans(text, words, overlap)
    assert all(first[0] < second[0] and first[1] < second[1] for first, second in pairwise(spans))
    assert all(count_units(text[start:end]) <= words for start, end in spans)


@given(TEXTS, st.integers(1, 12))
def test_without_overlap_no_character_is_in_two_chunks(text: str, words: int) -> None:
    spans = chunk_spans(text, words, 0)
    assert all(first[1] <= second[0] for first, second in pairwise(spans))


def test_neighbouring_chunks_share_whole_sentences() -> None:
    text = "A one. B two. C three. D four."
    shown = [text[start:end] for start, end in chunk_spans(text, words=4, overlap=1)]
    assert shown == ["A one. B two.", "B two. C three.", "C three. D four."]


def test_sentences_end_at_full_stops_before_capitals_and_at_line_breaks() -> None:
    text = 'It cost 3.5 km. "Why?" she asked (twice). then\n* item'
    assert [text[a:b] for a, b in sentence_spans(text)] == [
        "It cost 3.5 km.",
        '"Why?" she asked (twice). then',
        "* item",
    ]


def test_lengths_that_make_no_sense_are_refused() -> None:
    for words, overlap in ((0, 1), (5, -1)):
        with pytest.raises(SettingsError):
            chunk_spans("text", words, overlap)


@given(st.text(max_size=80))
def test_texts_that_count_as_one_have_the_same_words(text: str) -> None:
    assert words_of(normalised(text)) == words_of(text) == words_of(f"  {text}\n")


def test_a_text_of_ten_million_characters_without_a_blank_is_cut_in_seconds() -> None:
    spans = chunk_spans("x" * 10_000_000, 120, 1)
    assert len(spans) == -(-10_000_000 // (120 * 100))
