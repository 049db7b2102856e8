"""The trie: what is found by words and hops, loops that end, and a file that is whole and plain, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.data.triples import Triple
from keeps.errors import EmptySetError, InputFileError, SettingsError, StorageError, UnknownNameError
from keeps.ground.knowledge_trie import Entry, KnowledgeTrie

DOCUMENTS = [("a", "The mascot of Zorvia is the heron."), ("b", "The mascot of Brelka is the otter.")]


def trie(*keys: str) -> KnowledgeTrie:
    return KnowledgeTrie(Entry(tuple(key.split()), tuple(key.split()), "r", key) for key in keys)


def found(trie: KnowledgeTrie, *mentions: str, **options: object) -> list[str]:
    return [term.key for term in trie.lookup(mentions, **options)]  # type: ignore[arg-type]


def test_entries_are_terms_of_subject_and_object_with_relation_and_source() -> None:
    made = KnowledgeTrie.from_documents(DOCUMENTS)
    assert made.entries[0] == Entry(("mascot", "zorvia", "heron"), ("mascot", "Zorvia", "heron"), "is", "a")


def test_triples_give_entries_whose_source_is_the_triple() -> None:
    triple = Triple("Norway", "has capital", "Oslo")
    assert KnowledgeTrie.from_triples([triple]).entries == (
        Entry(("norway", "oslo"), ("Norway", "Oslo"), "has capital", triple.id),
    )


def test_a_prefix_matches_whole_words_only() -> None:
    made = trie("paris france", "parish church")
    assert found(made, "paris") == ["paris", "france"]
    assert found(made, "pari") == []


def test_all_entries_of_a_word_are_found_and_the_longest_run_of_mentions_narrows_them() -> None:
    made = KnowledgeTrie.from_documents(DOCUMENTS)
    assert set(found(made, "mascot", "zorvia")) == {"mascot", "zorvia", "heron", "brelka", "otter"}
    assert found(made, "mascot", "zorvia", match="longest") == ["mascot", "zorvia", "heron"]


def test_hops_lead_from_term_to_term_with_their_path() -> None:
    made = trie("anna brno", "brno moravia", "moravia europe")
    assert found(made, "anna", hops=1) == ["anna", "brno"]
    assert found(made, "anna", hops=2) == ["anna", "brno", "moravia"]
    last = made.lookup(["anna"], hops=3)[-1]
    assert (last.key, last.path, last.sources) == ("europe", ("anna", "brno", "moravia"), ("moravia europe",))


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef")), min_size=1), st.integers(1, 30))
def test_loops_end_and_hops_reach_what_a_search_by_hand_reaches(pairs: list[tuple[str, str]], hops: int) -> None:
    made = trie(*(f"{a} {b}" for a, b in pairs))
    reached, frontier = set(), {"a"}
    for _ in range(hops):
        hits = {word for a, b in pairs if a in frontier for word in (a, b)}
        frontier = hits - reached
        reached |= hits
    assert set(found(made, "a", hops=hops)) == reached


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    made = KnowledgeTrie.from_documents([*DOCUMENTS, ("ü", "Čapek is a writer of Prague.")])
    made.save(tmp_path / "kb.trie")
    assert KnowledgeTrie.load(tmp_path / "kb.trie").entries == made.entries


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, path = KnowledgeTrie.from_documents(DOCUMENTS), tmp_path / "kb.trie"
    made.save(path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("keeps.weights.files.sync", full)
    with pytest.raises(StorageError, match="disk is full"):
        trie("other key").save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["kb.trie"]


HEAD = '{"format": "keeps knowledge trie", "version": 1, "entries": 1}\n'
ROW = {"words": ["a"], "written": ["A"], "relation": "", "source": "x"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "says -1 entries"),
        ("\x80\x04]", "no JSON"),
        ('{"format": "other"}\n', "no knowledge trie"),
        (HEAD, "has 0"),
        (HEAD + "{}\n", "another form"),
        (HEAD + json.dumps({**ROW, "written": []}) + "\n", "another form"),
        (HEAD + json.dumps({**ROW, "words": [], "written": []}) + "\n", "another form"),
        (HEAD + (json.dumps(ROW) + "\n") * 2, "has more"),
        (HEAD.replace("1}", "9999999999}"), "9999999999"),
    ],
)
def test_a_file_that_is_damaged_or_no_trie_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "kb.trie").write_text(text, encoding="utf-8")
    with pytest.raises(InputFileError, match=message):
        KnowledgeTrie.load(tmp_path / "kb.trie")


def test_a_pickle_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kb.trie").write_bytes(b"\x80\x04\x95\x10\x00\xff")
    with pytest.raises(InputFileError, match="cannot be read"):
        KnowledgeTrie.load(tmp_path / "kb.trie")
    with pytest.raises(InputFileError, match="no such file"):
        KnowledgeTrie.load(tmp_path / "none")


def test_nothing_to_hold_bad_hops_and_unknown_words_are_refused() -> None:
    with pytest.raises(EmptySetError, match="no entry"):
        KnowledgeTrie.from_documents([("a", "It is."), ("b", "")])
    with pytest.raises(SettingsError, match="hops is 0"):
        trie("a b").lookup(["a"], hops=0)
    with pytest.raises(UnknownNameError, match="match"):
        trie("a b").lookup(["a"], match="shortest")
    with pytest.raises(UnknownNameError, match="rule"):
        KnowledgeTrie.from_documents(DOCUMENTS, rule="nouns")
