"""Terms and statements by a stated rule."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.data.terms import MOST_CHARACTERS, STOP, find_statements, find_terms, lemma, sentences_of
from keeps.errors import MissingDependencyError


def keys(text: str) -> list[str]:
    return [term.key for term in find_terms(text)]


def test_names_and_nouns_are_terms_and_function_words_verbs_and_adverbs_are_not() -> None:
    assert keys("Really, the old mayor of Oslo quickly gave Anna two keys.") == ["mayor", "oslo", "anna", "key"]


def test_the_spelling_of_the_source_is_kept_beside_the_key() -> None:
    assert [term.written for term in find_terms("The herons of Zorvia's lake")] == ["herons", "Zorvia", "lake"]


def test_a_short_name_is_a_term_inside_a_sentence_and_a_short_word_is_not() -> None:
    assert keys("They saw Al go up") == ["al"]


def test_names_are_never_cut_to_a_singular() -> None:
    assert keys("He went to Paris and Athens") == ["paris", "athens"]


def test_a_statement_is_split_at_its_first_verb_and_without_one_behind_its_first_term() -> None:
    [verb, none] = find_statements("The mascot of Zorvia is the heron. Zorvia: green hills!")
    assert (verb.subject, verb.relation, verb.object) == ("The mascot of Zorvia", "is", "the heron")
    assert (none.subject, none.relation, none.object) == ("Zorvia", "", "green hills")


def test_a_sentence_that_names_one_thing_says_nothing() -> None:
    assert find_statements("Zorvia! Yes. It is.") == []


def test_wordnet_decides_where_it_is_asked_and_its_absence_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("data.noun", "index.noun"):
        (tmp_path / name).write_text("  1 licence\nheron n 1 1 @ 1 0 01234567\nlake n 1 1 @ 1 0 01234568\n")
    monkeypatch.setenv("KEEPS_WORDNET", str(tmp_path))
    text = "A graceful heron on the lake near Zorvia"
    assert [term.key for term in find_terms(text, "wordnet")] == ["heron", "lake", "zorvia"]
    assert "graceful" in keys(text)
    monkeypatch.setenv("KEEPS_WORDNET", str(tmp_path / "none"))
    with pytest.raises(MissingDependencyError, match="WordNet"):
        find_terms(text, "wordnet")


@given(st.text(max_size=300))
def test_any_text_is_read_and_no_term_is_a_stop_word(text: str) -> None:
    assert all(term.key and term.key not in STOP for term in find_terms(text))
    find_statements(text)


@given(st.from_regex(r"[a-z]{1,12}", fullmatch=True))
def test_a_singular_is_not_longer_and_never_empty(word: str) -> None:
    assert 0 < len(lemma(word)) <= len(word)


def test_a_text_without_end_is_read_up_to_the_limit() -> None:
    assert len(find_terms("word " * MOST_CHARACTERS)) == MOST_CHARACTERS // 5
    assert sentences_of(" \n\n ") == []
