"""A citation holds as long as the characters it names are the ones that were indexed, and not a moment longer."""

from __future__ import annotations

from pathlib import Path

import pytest

import keeps.retrieval.generations as generations
from keeps.retrieval import Corpus, HybridRetriever, IndexSettings, assemble, verify_citations
from keeps.retrieval.citations import UNKNOWN_MARKER, WEAK, answer_sentences
from keeps.sources import Hit

pytest.importorskip("bm25s")
TEXT = "Oslo is big. Bergen rains a lot. Rome is warm. Lima is far away."


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    made = Corpus.create(tmp_path / "kb", encoder=None, settings=IndexSettings(chunk_words=4, overlap=0))
    made.add([TEXT, "Another text. It is here."], ids=["cities", "other"])
    made.save()
    return made


def all_hits(corpus: Corpus) -> list[Hit]:
    return HybridRetriever(corpus).search("oslo is big bergen rains rome warm lima another it here", 50)


def test_marked_sentences_lead_to_places_in_documents_and_bare_ones_are_unsupported(corpus: Corpus) -> None:
    shown = assemble(HybridRetriever(corpus).search("Bergen rains", 1))
    answer = "It rains there [1]. And it snows. Nobody knows [7]."
    check = verify_citations(answer, shown, corpus)
    first, unknown = check.citations
    assert (first.document, TEXT[slice(*first.span)], first.problem) == ("cities", "Bergen rains a lot.", "")
    assert unknown.problem == UNKNOWN_MARKER
    assert [answer[slice(*span)] for span in check.unsupported] == ["And it snows.", "Nobody knows [7]."]
    assert not check.holds
    assert verify_citations("It rains there [1].", shown, corpus).holds


def test_one_changed_character_of_the_stored_text_breaks_exactly_the_chunks_that_hold_it(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hits = all_hits(corpus)
    assert len(hits) == 6
    path = next((tmp_path / "kb").rglob("texts.txt"))
    place = TEXT.index("rains")
    path.write_bytes(path.read_bytes().replace(b"rains", b"snows"))
    monkeypatch.setattr(generations, "READ_BYTES", 0)  # as in an index too large to be read at once
    opened = Corpus.open(tmp_path / "kb")
    answer = " ".join(f"Said [{number}]." for number in range(1, len(hits) + 1))
    check = verify_citations(answer, dict(enumerate(hits, 1)), opened)
    broken = {citation.chunk for citation in check.citations if citation.problem}
    assert broken == {hit.id for hit in hits if hit.document == "cities" and hit.span[0] <= place < hit.span[1]}
    assert opened.damaged() == sorted(broken)
    assert len(broken) == 1


def test_an_updated_and_a_deleted_document_break_their_citations_only(corpus: Corpus) -> None:
    hits = dict(enumerate(all_hits(corpus), 1))
    answer = " ".join(f"Said [{number}]." for number in hits)
    corpus.update("other", "Now another. It is here.")
    check = verify_citations(answer, hits, corpus)
    assert {hits[c.number].document for c in check.citations if c.problem} == {"other"}
    corpus.delete("cities")
    assert all(c.problem for c in verify_citations(answer, hits, corpus).citations if c.document == "cities")


def test_a_passage_that_was_made_up_does_not_hold(corpus: Corpus) -> None:
    hit = all_hits(corpus)[0]
    forged = Hit(hit.id, hit.text.replace("i", "1"), hit.score, hit.document, hit.span)
    assert not verify_citations("So [1].", {1: forged}, corpus).holds


def test_a_passage_must_support_its_sentence_where_that_is_asked_for(corpus: Corpus) -> None:
    hits = dict(enumerate(all_hits(corpus), 1))
    asked: list[tuple[str, str]] = []

    def support(passage: str, sentence: str) -> float:
        asked.append((passage, sentence))
        return 0.5 if "1" in str(len(asked)) else 0.49

    check = verify_citations("It is so [1]. And so [2].", hits, corpus, support=support)
    assert [citation.problem for citation in check.citations] == ["", WEAK]
    assert asked[0] == (hits[1].text, "It is so .")
    assert [citation.support for citation in check.citations] == [0.5, 0.49]


def test_markers_after_the_full_stop_belong_to_the_sentence_before() -> None:
    answer = "Oslo is big. [1][2] Bergen rains [3]. Rome."
    assert [answer[slice(*span)] for span in answer_sentences(answer)] == [
        "Oslo is big. [1][2]",
        "Bergen rains [3].",
        "Rome.",
    ]
