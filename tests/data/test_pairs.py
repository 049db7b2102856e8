"""Question-answer pairs: what is refused, where they come from, and passages whose answers are masked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.data.pairs import QA, masked_passage, read_pairs
from keeps.errors import EmptySetError, InputFileError, RecordError

WORDS = st.lists(st.sampled_from(["ada", "bob", "oslo", "rome", "blue", "cat", "1815"]), min_size=1, max_size=8)


@pytest.mark.parametrize(("question", "answer"), [("", "a"), ("  ", "a"), ("q", ""), ("q", "\n"), ("q" * 2001, "a")])
def test_a_pair_without_question_or_answer_is_refused(question: str, answer: str) -> None:
    with pytest.raises(RecordError, match="empty or longer"):
        QA(question, answer)


def test_the_default_id_depends_on_question_and_answer_and_their_border() -> None:
    assert QA("ab", "c").id != QA("a", "bc").id
    assert QA("a", "b").id == QA("a", "b").id
    assert QA("a", "b", "mine").id == "mine"


def test_pairs_are_read_from_files_and_the_world(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"id": "a", "prompt": "Who?", "answer": "Ada"}) + "\n")
    (pair,) = read_pairs(path)
    assert (pair.question, pair.answer, pair.id) == ("Who?", "Ada", "a")
    assert len(read_pairs("world:capital#3")) == 3
    with pytest.raises(InputFileError):
        read_pairs(tmp_path / "none.jsonl")
    with pytest.raises(EmptySetError, match="no question with an answer"):
        read_pairs("text#2")


def test_masked_spans_are_numbered_as_they_stand_and_answered_by_their_own_pairs() -> None:
    text = "Ada was born in 1815 in London."
    place, year = QA("Where was Ada born?", "London", "place"), QA("When was Ada born?", "1815", "year")
    other = QA("Who was her father?", "Byron", "father")
    found = masked_passage(text, [place, year, other])
    assert found.text == "Ada was born in <extra_id_0> in <extra_id_1>."
    assert found.target == "<extra_id_0> 1815 <extra_id_1> London"
    assert found.relevant == (("year", "place"),)
    assert found.pairs == (place, year)
    one = masked_passage(text, [place, year], ["place"])
    assert (one.text, one.relevant) == ("Ada was born in 1815 in <extra_id_0>.", (("place",),))
    assert one.pairs == (place, year)  # the other one stays in the batch's memory, as one that does not help
    with pytest.raises(EmptySetError, match="word for word"):
        masked_passage(text, [other])


def test_an_answer_inside_a_word_or_inside_another_span_is_not_masked() -> None:
    assert masked_passage("An Osloer in Oslo.", [QA("q", "Oslo")]).text == "An Osloer in <extra_id_0>."
    longer, inner = QA("q", "New York City"), QA("p", "York")
    assert masked_passage("He saw New York City.", [longer, inner]).text == "He saw <extra_id_0>."


@given(WORDS, st.lists(st.sampled_from(["ada", "bob", "oslo", "rome", "blue"]), min_size=1, max_size=4, unique=True))
def test_putting_the_target_back_gives_the_passage(words: list[str], answers: list[str]) -> None:
    text = " ".join(words)
    pairs = [QA(f"question {n}", answer) for n, answer in enumerate(answers)]
    if not set(words) & set(answers):
        with pytest.raises(EmptySetError):
            masked_passage(text, pairs)
        return
    found = masked_passage(text, pairs)
    restored = found.text
    for mark, answer in zip(found.target.split()[::2], found.target.split()[1::2], strict=True):
        restored = restored.replace(mark, answer)
    assert restored == text
    assert len(found.relevant[0]) == len(set(words) & set(answers))
