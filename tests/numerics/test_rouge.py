"""ROUGE-L against the definition by brute force."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.numerics.rouge import rouge_l, rouge_l_of_tokens, rouge_words

WORDS = st.lists(st.sampled_from("abcd"), max_size=7)


def longest_common(one: list[str], other: list[str]) -> int:
    """By trying every subsequence."""

    def holds(part: tuple[str, ...]) -> bool:
        rest = iter(other)
        return all(word in rest for word in part)

    return max((size for size in range(len(one) + 1) for part in combinations(one, size) if holds(part)), default=0)


@given(WORDS, WORDS)
def test_rouge_l_follows_its_definition(said: list[str], wanted: list[str]) -> None:
    common = longest_common(said, wanted)
    found = rouge_l_of_tokens(said, wanted)
    recall, precision = (common / len(each) if each else 0.0 for each in (wanted, said))
    assert (found.recall, found.precision) == (pytest.approx(recall), pytest.approx(precision))
    f1 = 2 * recall * precision / (recall + precision) if common else 0.0
    assert found.f1 == pytest.approx(f1)


def test_the_published_example_of_lin() -> None:
    """Lin (2004), section 3.1: S2 scores 3/4, S3 2/4."""
    reference = "police killed the gunman"
    assert rouge_l("police kill the gunman", reference).f1 == pytest.approx(0.75)
    assert rouge_l("the gunman kill police", reference).f1 == pytest.approx(0.5)


def test_words_are_cut_as_the_option_says() -> None:
    assert rouge_words("Zürich, 3.5 Öre!") == ["zürich", "3", "5", "öre"]
    assert rouge_words("Zürich, 3.5 Öre!", words="rouge_score") == ["z", "rich", "3", "5", "re"]
    assert rouge_words("cats sat", stem=lambda word: word.rstrip("s")) == ["cat", "sat"]
    assert rouge_l("cats", "cat", stem=lambda word: word.rstrip("s")).recall == 1
    with pytest.raises(ValueError, match="bytes"):
        rouge_words("a", words="bytes")  # type: ignore[arg-type]


def test_nothing_in_common_is_nothing() -> None:
    assert rouge_l("", "Oslo") == rouge_l("Oslo", "?") == rouge_l("Oslo", "Paris")
    assert rouge_l("Oslo", "Paris").f1 == 0
