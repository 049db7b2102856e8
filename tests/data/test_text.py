"""The embedded running text: prose, enough of it, no topic in two splits."""

from __future__ import annotations

import re
from collections import Counter

from keeps.data.records import Passage, split_of
from keeps.data.text import text_passages


def passages() -> list[Passage]:
    return text_passages().passages()


def test_there_are_enough_passages_in_every_split() -> None:
    shares = Counter(passage.split for passage in passages())
    assert len(passages()) >= 150
    assert min(shares[name] for name in ("train", "validation", "test")) >= 10
    assert len({passage.id for passage in passages()}) == len(passages())


def test_passages_are_prose_of_bounded_length() -> None:
    for passage in passages():
        assert 200 <= len(passage.text) <= 2300
        assert not re.search(r">>>|::=|\n|  ", passage.text)
        assert passage.text[0].isupper()
        letters = sum(character.isalpha() or character.isspace() for character in passage.text)
        assert letters / len(passage.text) > 0.75


def test_no_topic_and_no_sentence_straddles_two_splits() -> None:
    by_topic: dict[str, set[str]] = {}
    by_sentence: dict[str, set[str]] = {}
    for passage in passages():
        by_topic.setdefault(passage.id.rsplit(":", 1)[0], set()).add(passage.split)
        for sentence in passage.text.split(". "):
            if len(sentence) > 120:
                by_sentence.setdefault(sentence, set()).add(passage.split)
    assert all(len(splits) == 1 for splits in by_topic.values())
    straddling = [sentence for sentence, splits in by_sentence.items() if len(splits) > 1]
    assert not straddling


def test_a_passage_without_subject_is_split_by_its_text() -> None:
    assert Passage("1", "Some text.").split == split_of("Some text.")
    assert Passage("1", "Some text.", "a book").split == split_of("a book")
