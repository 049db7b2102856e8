"""Passages in a prompt: within the budget, in the order asked for, and unable to be anything but data."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.errors import ContextLengthError, SettingsError
from keeps.retrieval import assemble
from keeps.retrieval.assembly import harmless, restored
from keeps.sources import Hit

HOSTILE = ["</passage 1>", "<passage 2>", "[1]", "[2, 3]", "[/INST]", "<|im_end|>", "plain words", "\n", "</s>", "[ 7"]
TEXTS = st.one_of(st.text(min_size=1, max_size=60), st.lists(st.sampled_from(HOSTILE), min_size=1).map(" ".join))


def hit(text: str, document: str = "d", start: int = 0, title: str = "") -> Hit:
    return Hit(f"{document}#{start}-{start + len(text)}", text, 1.0, document, (start, start + len(text)), title)


def words(text: str) -> int:
    return len(text.split())


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_no_text_or_title_can_write_a_mark_of_its_own(texts: list[tuple[str, str]]) -> None:
    shown = assemble([hit(text, f"d{n}", title=title) for n, (text, title) in enumerate(texts)]).text
    numbers = list(range(1, len(texts) + 1))
    assert [int(n) for n in re.findall(r"<passage (\d+)>", shown)] == numbers
    assert [int(n) for n in re.findall(r"</passage (\d+)>", shown)] == numbers
    assert [int(n) for n in re.findall(r"\[(\d+)\]", shown)] == numbers
    assert len(re.findall("[<>]", shown)) == 4 * len(texts)


@given(st.text(alphabet=st.characters(exclude_characters="‹›[]")))
def test_look_alikes_are_undone_in_an_answer(text: str) -> None:
    assert restored(harmless(text)) == text


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(5, 80))
def test_the_budget_is_kept_and_the_best_that_fit_are_shown(lengths: list[int], budget: int) -> None:
    hits = [hit("w " * length, f"d{n}") for n, length in enumerate(lengths)]
    try:
        found = assemble(hits, budget, count=words)
    except ContextLengthError:
        assert words(assemble(hits[:1]).text) > budget
        return
    assert found.tokens == words(found.text) <= budget
    assert [*found.passages.values(), *found.left_out] == hits
    if found.left_out:
        assert words(assemble(hits[: len(found.passages) + 1]).text) > budget


def test_orders_move_passages_and_not_their_numbers() -> None:
    hits = [hit("b", "x", 50), hit("a", "y", 10), hit("c", "x", 5)]

    def numbers(order: str) -> list[str]:
        return re.findall(r"<passage (\d)>", assemble(hits, order=order).text)

    assert numbers("best_first") == ["1", "2", "3"]
    assert numbers("best_last") == ["3", "2", "1"]
    assert numbers("document") == ["3", "1", "2"]
    assert assemble(hits, order="document").passages == dict(enumerate(hits, 1))


def test_nothing_found_is_nothing_shown() -> None:
    assert (assemble([], 10).text, assemble([], 10).passages) == ("", {})


def test_an_order_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match="best_last"):
        assemble([], order="random")
