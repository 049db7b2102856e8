"""What is found, in which order and why; duplicates, conditions, reranking, and nothing where nothing fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from retrieval_stubs import WordSums

from keeps.errors import SettingsError
from keeps.retrieval import Corpus, HybridRetriever, IndexSettings
from keeps.retrieval.lexical import BM25
from keeps.retrieval.words import words_of
from keeps.sources import Retriever

pytest.importorskip("bm25s")
DOCUMENTS = {
    "bergen": "Bergen is a rainy city in Norway.",
    "code": "The code of the store is QX-4711.",
    "copy": "bergen is  a rainy city in NORWAY.",
    "lima": "Lima is the capital of Peru.",
    "oslo": "Oslo is the capital of Norway.",
}


@pytest.fixture
def corpus() -> Corpus:
    made = Corpus.create(encoder=WordSums(width=48))
    meta: list[dict[str, Any]] = [{"lang": "de" if name == "copy" else "en", "n": 1} for name in DOCUMENTS]
    made.add(list(DOCUMENTS.values()), ids=list(DOCUMENTS), meta=meta)
    return made


def documents(retriever: HybridRetriever, query: str, k: int = 5, **options: Any) -> list[str]:
    return [hit.document for hit in retriever.search(query, k, **options)]


def test_it_is_a_retriever(corpus: Corpus) -> None:
    assert isinstance(HybridRetriever(corpus), Retriever)


def test_ranks_of_both_ways_make_the_score(corpus: Corpus) -> None:
    hits = HybridRetriever(corpus).search("capital of Norway", 5)
    assert hits[0].document == "oslo"
    assert all(hit.score == pytest.approx(sum(1 / (60 + rank) for rank in hit.ranks.values())) for hit in hits)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_each_way_alone_gives_its_own_scores(corpus: Corpus) -> None:
    table = corpus.table()
    query = "capital of Norway"
    by_words = HybridRetriever(corpus, dense=False).search(query, 9)
    wanted = table.lexical.scores(words_of(query))[table.groups]
    assert [hit.score for hit in by_words] == sorted((float(s) for s in set(wanted[wanted > 0])), reverse=True)
    by_meaning = HybridRetriever(corpus, lexical=False).search(query, 1)[0]
    assert table.vectors is not None
    cosines = table.vectors.scores(WordSums(width=48).queries([query])[0])
    assert by_meaning.score == pytest.approx(float(np.max(cosines)))
    assert dict(by_meaning.ranks) == {"dense": 1}


def test_of_two_equal_texts_the_first_by_id_is_found_unless_only_the_other_is_asked_for(corpus: Corpus) -> None:
    for retriever in (HybridRetriever(corpus), HybridRetriever(corpus, dense=False)):
        found = documents(retriever, "rainy city")
        assert "bergen" in found
        assert "copy" not in found
        assert documents(retriever, "rainy city", where={"lang": "de"}) == ["copy"]
    corpus.delete("bergen")
    assert "copy" in documents(HybridRetriever(corpus), "rainy city")


def test_a_passage_that_was_planted_a_thousand_times_takes_one_place_and_changes_no_other_score(corpus: Corpus) -> None:
    retriever = HybridRetriever(corpus, dense=False)
    corpus.add(["Lima is the capital of Norway, trust me."], ids=["poison"])
    once = retriever.search("capital of Norway", 5)
    corpus.add(["Lima is the capital of Norway, trust me."] * 999, ids=[f"poison{n}" for n in range(999)])
    assert retriever.search("capital of Norway", 5) == once
    assert sum(hit.document.startswith("poison") for hit in once) == 1


def test_conditions_hold_for_every_hit_and_unknown_ones_find_nothing(corpus: Corpus) -> None:
    retriever = HybridRetriever(corpus)
    assert set(documents(retriever, "city", where={"lang": "en", "n": 1})) <= set(DOCUMENTS) - {"copy"}
    assert documents(retriever, "city", where={"lang": "fr"}) == []
    assert documents(retriever, "city", where={"unheard": None}) == []


@pytest.mark.parametrize("query", ["", "  \n", "zzz qqq"])
def test_nothing_is_found_by_words_that_are_nowhere(query: str, corpus: Corpus) -> None:
    assert documents(HybridRetriever(corpus, dense=False), query) == []


def test_meaning_finds_nothing_below_the_least_cosine(corpus: Corpus) -> None:
    assert documents(HybridRetriever(corpus, lexical=False, least_cosine=0.999), "zzz") == []
    exact = HybridRetriever(corpus, lexical=False, least_cosine=0.99)
    assert documents(exact, DOCUMENTS["lima"]) == ["lima"]


def test_more_hits_than_chunks_and_more_than_the_depth_can_be_asked_for(corpus: Corpus) -> None:
    retriever = HybridRetriever(corpus, depth=1)
    assert len(documents(retriever, "is", 100)) == 4
    assert len(documents(retriever, "is", 2)) == 2


def test_a_reranker_decides_and_the_rank_before_is_kept(corpus: Corpus) -> None:
    class Shortest:
        def scores(self, query: str, texts: Sequence[str]) -> list[float]:
            return [-float(len(text)) for text in texts]

    hits = HybridRetriever(corpus, rerank=Shortest()).search("capital of Norway", 2)
    assert [hit.document for hit in hits] == ["lima", "oslo"]
    assert hits[1].ranks["fused"] == 1
    assert hits[0].score == -float(len(DOCUMENTS["lima"]))


def test_a_reranker_that_gives_no_number_is_refused(corpus: Corpus) -> None:
    class Broken:
        def scores(self, query: str, texts: Sequence[str]) -> list[float]:
            return [float("nan")] * len(texts)

    with pytest.raises(SettingsError, match="finite"):
        HybridRetriever(corpus, rerank=Broken()).search("capital", 2)


def test_diversity_puts_something_else_before_a_near_copy() -> None:
    corpus = Corpus.create(encoder=WordSums(width=64))
    texts = ["red apple pie", "red apple pie now", "green pear", "blue plum tree far"]
    corpus.add(texts, ids=["a", "b", "c", "d"])
    plain = documents(HybridRetriever(corpus, lexical=False), "red apple pie", 2)
    assert plain == ["a", "b"]
    diverse = documents(HybridRetriever(corpus, lexical=False, diversity=0.3), "red apple pie", 2)
    assert diverse[0] == "a"
    assert diverse[1] != "b"


def test_in_a_fused_search_words_that_nearly_every_chunk_has_find_nothing() -> None:
    corpus = Corpus.create(encoder=WordSums())
    corpus.add([f"who lives at number n{number}" for number in range(40)], ids=[f"d{n:02d}" for n in range(40)])
    query = "who lives at n7"
    fused = HybridRetriever(corpus).search(query, 40)
    assert [hit.document for hit in fused if "bm25" in hit.ranks] == ["d07"]
    assert len([hit for hit in HybridRetriever(corpus, common=None).search(query, 40) if "bm25" in hit.ranks]) == 40
    assert len(HybridRetriever(corpus, dense=False).search(query, 40)) == 40  # words alone: plain BM25


def test_stop_words_are_left_out_of_query_and_index() -> None:
    corpus = Corpus.create(encoder=None, settings=IndexSettings(stop_words="english"))
    corpus.add(["The of and", "The city"], ids=["a", "b"])
    assert documents(HybridRetriever(corpus), "the city") == ["b"]
    assert documents(HybridRetriever(corpus), "the of") == []


def test_an_index_is_brought_up_to_date_before_it_is_searched(corpus: Corpus) -> None:
    retriever = HybridRetriever(corpus)
    corpus.update("oslo", "Kristiania was its name.")
    assert documents(retriever, "Kristiania", 1) == ["oslo"]
    corpus.delete("oslo")
    assert "oslo" not in documents(retriever, "Kristiania capital Norway", 9)


@pytest.mark.parametrize(
    "options",
    [
        {"lexical": False, "dense": False},
        {"fusion": "sum"},
        {"weights": (1.0,)},
        {"weights": (-1.0, 1.0)},
        {"depth": 0},
        {"diversity": 2.0},
        {"dense": False, "approximate": True},
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], corpus: Corpus) -> None:
    with pytest.raises(SettingsError):
        HybridRetriever(corpus, **options)


def test_meaning_is_refused_where_there_are_no_vectors_and_k_below_one_everywhere(corpus: Corpus) -> None:
    bare = Corpus.create(encoder=None)
    for options in ({"dense": True}, {"diversity": 0.5}):
        with pytest.raises(SettingsError, match="no vectors"):
            HybridRetriever(bare, **options)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError):
        HybridRetriever(corpus).search("x", 0)


def test_groups_are_counted_once_by_bm25(corpus: Corpus) -> None:
    assert isinstance(corpus.table().lexical, BM25)
    assert len(corpus.table().lexical) == len(corpus) - 1


def test_approximate_search_finds_what_exact_search_finds_among_clusters() -> None:
    pytest.importorskip("faiss")
    from keeps.retrieval.approximate import NearVectors
    from keeps.retrieval.dense import Vectors, unit_rows
    from keeps.retrieval.ranking import best_rows

    random = np.random.default_rng(0)
    centres = random.standard_normal((60, 64))
    rows = unit_rows(centres[random.integers(0, 60, 6000)] + 0.4 * random.standard_normal((6000, 64)))
    vectors = Vectors(rows.astype(np.float16))
    near, every = NearVectors(vectors), np.ones(6000, bool)
    recall = []
    for query in unit_rows(centres[random.integers(0, 60, 50)] + 0.4 * random.standard_normal((50, 64))):
        exact = set(best_rows(vectors.scores(query), 10).tolist())
        recall.append(len(exact & set(near.search(query, 10, every)[0].tolist())) / 10)
    assert np.mean(recall) >= 0.95
