"""Adding, replacing and deleting give the index that is built anew; nothing is done twice; bad input costs nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_stubs import WordSums

from keeps.errors import KeepsError, RecordError, SettingsError, StorageError, UnknownNameError
from keeps.retrieval import Corpus, Document, HybridRetriever, IndexSettings
from keeps.retrieval.index_files import write_table

pytest.importorskip("bm25s")
SHORT = IndexSettings(chunk_words=6)
IDS = st.sampled_from(["a", "b", "c", "d#1", "é"])
WORDS = ["Oslo is big. ", "Bergen rains! ", "東京。", "Ünï code. ", "the same words "]
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map("".join)
CHANGES = st.lists(st.tuples(IDS, st.one_of(st.none(), TEXTS)), max_size=8)


def bytes_of(corpus: Corpus, folder: Path) -> dict[str, str]:
    """Hash of every file of the index."""
    folder.mkdir()
    write_table(corpus.table(), folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@settings(max_examples=40)
@given(st.lists(CHANGES, min_size=1, max_size=3))
def test_after_any_changes_the_index_is_that_of_a_rebuild_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[tuple[str, str | None]]]
) -> None:
    corpus = Corpus.create(encoder=WordSums(), settings=SHORT)
    held: dict[str, str] = {}
    for changes in rounds:
        for name, text in changes:
            if text is not None:
                corpus.add([text], ids=[name], overwrite=True)
                held[name] = text
            elif name in held:
                corpus.delete(name)
                del held[name]
        corpus.table()
    anew = Corpus.create(encoder=WordSums(), settings=SHORT)
    anew.add(list(held.values()), ids=list(held))
    folder = tmp_path_factory.mktemp("same")
    assert bytes_of(corpus, folder / "changed") == bytes_of(anew, folder / "anew")
    assert list(corpus) == sorted(held)
    for query in ("Oslo rains", "東京"):
        assert HybridRetriever(corpus).search(query, 4) == HybridRetriever(anew).search(query, 4)


@given(st.dictionaries(IDS, TEXTS, min_size=1))
def test_every_chunk_is_the_text_at_its_place(held: dict[str, str]) -> None:
    corpus = Corpus.create(encoder=None, settings=SHORT)
    corpus.add(list(held.values()), ids=list(held))
    for hit in HybridRetriever(corpus).search("oslo bergen 東 ünï the same words", 50):
        assert hit.text == held[hit.document][slice(*hit.span)]
        assert hit.id == f"{hit.document}#{hit.span[0]}-{hit.span[1]}"
    assert {name: corpus.get(name).text for name in corpus} == held


def test_what_was_saved_is_opened_bit_for_bit_and_found_alike(tmp_path: Path) -> None:
    corpus = Corpus.create(tmp_path / "kb", encoder=WordSums(), settings=SHORT)
    lines = "A line\u2028separator and a\x85next line."  # no line ends of JSON lines
    about = {"titles": ["N", "a\u2028b"], "meta": [{"x": 1}, {}]}
    corpus.add(["Oslo is big. Bergen rains.", lines], ids=["n", "l\u2028"], **about)  # pyright: ignore[reportArgumentType]
    assert corpus.save()
    opened = Corpus.open(tmp_path / "kb", encoder=WordSums())
    assert bytes_of(opened, tmp_path / "one") == bytes_of(corpus, tmp_path / "two")
    assert HybridRetriever(opened).search("rains", 3) == HybridRetriever(corpus).search("rains", 3)
    assert opened.get("l\u2028") == corpus.get("l\u2028")
    assert dict(opened.get("n").meta) == {"x": 1}
    assert opened.settings == SHORT


def test_the_same_documents_again_change_nothing_and_encode_nothing(tmp_path: Path) -> None:
    texts, ids = ["Oslo is big.", "Bergen rains."], ["n", "b"]
    corpus = Corpus.create(tmp_path / "kb", encoder=WordSums())
    corpus.add(texts, ids=ids)
    corpus.save()
    embedder = WordSums()
    again = Corpus.open(tmp_path / "kb", encoder=embedder)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "kb").rglob("*")}
    again.add(texts, ids=ids)
    again.add(["changed"], ids=["n"], overwrite=True)
    again.add(texts, ids=ids, overwrite=True)
    assert not again.save()
    assert embedder.encoded == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "kb").rglob("*")} == before


def test_a_change_encodes_only_the_chunks_that_are_new() -> None:
    embedder = WordSums()
    corpus = Corpus.create(encoder=embedder, settings=IndexSettings(chunk_words=3, overlap=0))
    corpus.add(["One two three. Four five six."], ids=["a"])
    corpus.table()
    embedder.encoded.clear()
    corpus.update("a", "Seven eight nine. One two three. Four five six.")
    corpus.table()
    assert embedder.encoded == ["Seven eight nine."]


def test_a_text_without_an_id_is_added_once() -> None:
    corpus = Corpus.create(encoder=None)
    assert set(corpus.add(["same", "same"])) == set(corpus.add(["same"]))
    assert len(corpus) == 1


@pytest.mark.parametrize(
    ("texts", "options", "error"),
    [
        (["fresh", "other"], {"ids": ["new", "old"]}, RecordError),  # an id that belongs to another text
        (["fresh", "other"], {"ids": ["new", "new"], "overwrite": True}, RecordError),
        (["fresh", "  "], {"ids": ["new", "newer"]}, RecordError),
        (["fresh"], {"ids": ["new", "newer"]}, RecordError),
        (["fresh", "half \ud800"], {"ids": ["new", "newer"]}, RecordError),
        (["fresh", "x"], {"ids": ["new", ""]}, RecordError),
        (["fresh", "x"], {"ids": ["new", "y"], "meta": [{}, {"k": [1]}]}, RecordError),
        (["fresh", "x"], {"ids": ["new", "y"], "meta": [{}, {"k": float("nan")}]}, RecordError),
        ("fresh", {}, RecordError),
        (["fresh", 3], {}, RecordError),
    ],
)
def test_of_documents_with_a_bad_one_among_them_none_is_added(
    texts: list[str], options: dict[str, list[str]], error: type[KeepsError]
) -> None:
    corpus = Corpus.create(encoder=None)
    corpus.add(["old text"], ids=["old"])
    with pytest.raises(error):
        corpus.add(texts, **options)  # pyright: ignore[reportArgumentType]
    assert list(corpus) == ["old"]
    assert corpus.get("old").text == "old text"


def test_an_unknown_document_is_neither_deleted_nor_updated_and_others_stay() -> None:
    corpus = Corpus.create(encoder=None)
    corpus.add(["text"], ids=["norway"])
    with pytest.raises(UnknownNameError, match="norway"):
        corpus.delete(["norway", "norwai"])
    with pytest.raises(UnknownNameError):
        corpus.update("sweden", "text")
    assert list(corpus) == ["norway"]


def test_another_encoder_is_refused_when_the_index_is_opened(tmp_path: Path) -> None:
    corpus = Corpus.create(tmp_path / "kb", encoder=WordSums("first"))
    corpus.add(["text"], ids=["a"])
    corpus.save()
    with pytest.raises(SettingsError, match=r"first.*second"):
        Corpus.open(tmp_path / "kb", encoder=WordSums("second"))


def test_an_index_of_words_is_opened_without_an_encoder_only(tmp_path: Path) -> None:
    corpus = Corpus.create(tmp_path / "kb", encoder=None)
    corpus.add([Document("a", "text")])
    corpus.save()
    assert [hit.id for hit in HybridRetriever(Corpus.open(tmp_path / "kb")).search("text")] == ["a#0-4"]
    with pytest.raises(SettingsError, match="no vectors"):
        Corpus.open(tmp_path / "kb", encoder=WordSums())


def test_vectors_that_are_no_numbers_never_reach_the_index() -> None:
    class Broken(WordSums):
        def passages(self, texts):  # type: ignore[no-untyped-def]
            return np.full((len(texts), self.width), np.nan, np.float32)

    corpus = Corpus.create(encoder=Broken())
    corpus.add(["text"], ids=["a"])
    with pytest.raises(RecordError):
        corpus.table()


def test_a_corpus_is_not_made_over_other_things(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(StorageError):
            Corpus.create(folder, encoder=None)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_an_emptied_corpus_is_saved_opened_and_filled_again(tmp_path: Path) -> None:
    corpus = Corpus.create(tmp_path / "kb", encoder=WordSums())
    corpus.add(["text"], ids=["a"])
    corpus.save()
    corpus.delete("a")
    corpus.save()
    opened = Corpus.open(tmp_path / "kb", encoder=WordSums())
    assert len(opened) == 0
    assert HybridRetriever(opened).search("text") == []
    opened.add(["text again"], ids=["b"])
    assert [hit.id for hit in HybridRetriever(opened).search("text")] == ["b#0-10"]
