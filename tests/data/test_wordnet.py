"""Hypernyms by choice, from files in WordNet's format: a small one made here, the real one if installed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from keeps.data.select import load_records
from keeps.data.world import relation_facts
from keeps.errors import MissingDependencyError

# offset, lexicographer class, word, offset of the hypernym
SYNSETS = [
    ("00000100", 5, "bird", ""),
    ("00000200", 6, "vehicle", ""),
    ("00000300", 13, "meal", ""),
    ("00000400", 18, "musician", ""),
    ("00000500", 5, "owl", "00000100"),
    ("00000600", 6, "lorry", "00000200"),
    ("00000700", 13, "lunch", "00000300"),
    ("00000800", 18, "pianist", "00000400"),
    ("00000900", 5, "songbird", "00000100"),
    ("00001000", 13, "rare", "00000300"),
]


@pytest.fixture
def dictionary(tmp_path: Path) -> Path:
    data, index = ["  1 a licence", "  2 in two lines"], ["  1 a licence"]
    for offset, lexical_class, word, hypernym in SYNSETS:
        pointers = f"002 ~ 00009999 n 0000 @ {hypernym} n 0000" if hypernym else "000"
        data.append(f"{offset} {lexical_class:02d} n 02 {word} 0 other_word 0 {pointers} | a gloss @ 123 of it")
        index.append(f"{word} n 2 2 @ ~ 2 {0 if word == 'rare' else 1} {offset} 00009999")
    (tmp_path / "data.noun").write_text("\n".join(data) + "\n")
    (tmp_path / "index.noun").write_text("\n".join(index) + "\n")
    return tmp_path


def test_nouns_are_asked_with_their_hypernym_and_choices_of_other_classes(
    dictionary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEPS_WORDNET", str(dictionary))
    facts = {fact.subject: fact for fact in relation_facts("hypernym", marks={})}
    assert set(facts) == {"owl", "lorry", "lunch", "pianist"}  # "songbird" holds its hypernym, "rare" never occurs
    assert facts["owl"].answers == ("bird",)
    assert sorted(facts["owl"].choices) == ["bird", "meal", "musician", "vehicle"]
    assert facts["owl"].prompts[0] == "An owl is a kind of"
    assert facts["lunch"].prompts[0] == "A lunch is a kind of"
    assert len(set(facts["owl"].prompts)) == 4


def test_without_the_files_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPS_WORDNET", str(tmp_path))
    with pytest.raises(MissingDependencyError, match=r"apt install wordnet-base.*KEEPS_WORDNET"):
        load_records("world:hypernym")


def test_the_real_wordnet_gives_300_nouns_with_four_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        facts = relation_facts("hypernym", marks={})
    except MissingDependencyError:
        pytest.skip("WordNet is not installed here")
    assert len(facts) == 300
    places = Counter(fact.choices.index(fact.answers[0]) for fact in facts)
    assert all(len(set(fact.choices)) == 4 for fact in facts)
    assert min(places.values()) > 45  # the right answer stands anywhere
