"""Chunks and their ranking against independent formulas."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keeps.ground.alignment import align, best_chunks, chunked, cleaned, sentences

PIECES = ("Oslo", "is", "big", ".", "!", '"', "3.5", " ", "\n", "It", "A", ")", "。", "x" * 9)
TEXT = st.lists(st.sampled_from(PIECES) | st.text(max_size=3)).map(" ".join)


@given(TEXT)
def test_sentences_lose_nothing_but_blanks(text: str) -> None:
    found = sentences(text)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(item == item.strip() != "" for item in found)


@given(TEXT, st.integers(1, 8))
def test_chunks_are_the_sentences_in_order_short_enough_or_single_and_never_empty(text: str, words: int) -> None:
    chunks, remaining = chunked(text, words), sentences(text)
    for chunk in chunks:
        taken = [remaining.pop(0)]
        while " ".join(taken) != chunk:
            taken.append(remaining.pop(0))
        assert chunk
        assert len(chunk.split()) <= words or len(taken) == 1
    assert remaining == []


def test_chunks_are_packed_greedily() -> None:
    assert chunked("A b. C d. E f g h i j. K.", 4) == ["A b. C d.", "E f g h i j.", "K."]


@given(
    st.integers(1, 4).flatmap(
        lambda facts: st.integers(1, 7).flatmap(
            lambda chunks: st.lists(
                st.lists(st.integers(-9, 9), min_size=chunks, max_size=chunks), min_size=facts, max_size=facts
            )
        )
    ),
    st.integers(1, 4),
    st.integers(1, 5),
)
def test_the_kept_chunks_are_the_best_of_the_union_each_once(rows: list[list[int]], per_fact: int, keep: int) -> None:
    found = best_chunks(rows, per_fact, keep)
    scores = [score for _, _, score in found]
    assert scores == sorted(scores, reverse=True)
    assert len({chunk for chunk, _, _ in found}) == len(found) <= keep
    matrix = torch.tensor(rows, dtype=torch.float64)
    ranks = (-matrix).argsort(dim=1, stable=True).argsort(dim=1)
    inside = matrix.masked_fill(ranks >= per_fact, -torch.inf)
    best = inside.max(dim=0).values
    expected = sorted((value for value in best.tolist() if value > -100), reverse=True)[:keep]
    assert scores == expected
    assert all(rows[fact][chunk] == score for chunk, fact, score in found)


def test_marks_in_brackets_go_and_nothing_else() -> None:
    assert cleaned("a <b>c</b> [3] d < e") == "a c d < e"


def test_no_facts_or_no_chunks_align_nothing_without_an_encoder() -> None:
    class Never:
        def encode(self, texts: object) -> torch.Tensor:
            raise AssertionError(texts)

    assert align([], ["a"], Never(), per_fact=1, keep=1) == align(["a"], [], Never(), per_fact=1, keep=1) == []


def test_a_sentence_that_stands_in_two_passages_is_kept_once_and_leaves_its_place_to_the_next() -> None:
    vectors = {"fact": [1.0, 0.0], "same": [0.8, 0.6], "next": [0.6, 0.8], "other": [0.0, 1.0]}

    class Table:
        def encode(self, texts: Sequence[str]) -> torch.Tensor:
            return torch.tensor([vectors[text] for text in texts])

    chunks = ["same", "other", "same", "next"]
    found = align(["fact"], chunks, Table(), per_fact=4, keep=2)
    assert [(item.chunk, item.place) for item in found] == [("same", 0), ("next", 3)]
    # the best per_fact are counted before equal texts fall together, as published
    assert [item.chunk for item in align(["fact"], chunks, Table(), per_fact=2, keep=2)] == ["same"]


@pytest.mark.slow
def test_a_very_long_chunk_fits_the_encoder() -> None:
    from keeps.models import SentenceEncoder

    found = align(["Oslo"], ["㐀" * 5000, "Oslo"], SentenceEncoder.load(), per_fact=1, keep=1)
    assert found[0].chunk == "Oslo"
