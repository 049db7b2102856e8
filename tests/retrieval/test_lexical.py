"""BM25 against the formula written out, against bm25s' own index, and after every kind of change."""

from __future__ import annotations

import math
import random
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.errors import StorageError
from keeps.retrieval.counts import Counts
from keeps.retrieval.lexical import BM25, stop_words

bm25s = pytest.importorskip("bm25s")
TEXTS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=6), max_size=8)


def invented(count: int, length: int, words: int = 400, seed: int = 0) -> list[list[str]]:
    """Texts whose words are as unevenly frequent as those of a language."""
    chance = random.Random(seed)
    vocabulary = [f"w{number}" for number in range(words)]
    weights = list(accumulate(1 / (number + 2) for number in range(words)))
    return [chance.choices(vocabulary, cum_weights=weights, k=chance.randint(1, length)) for _ in range(count)]


def by_hand(query: list[str], texts: list[list[str]], k1: float = 1.5, b: float = 0.75) -> list[float]:
    """Robertson and Zaragoza 2009 with Lucene's idf, one text and one word at a time."""
    mean = sum(map(len, texts)) / len(texts)
    scores = []
    for text in texts:
        score = 0.0
        for word in query:
            having = sum(word in other for other in texts)
            if having:
                idf = math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
                tf = text.count(word)
                score += idf * tf / (tf + k1 * (1 - b + b * len(text) / mean))
        scores.append(score)
    return scores


def test_scores_are_those_of_the_formula_on_200_random_texts() -> None:
    texts = invented(200, 40)
    index = BM25.of(Counts.of(texts))
    for query in (texts[3][:5], texts[7][:1] * 2, ["w0", "w1", "unheard"]):
        assert np.abs(index.scores(query) - by_hand(query, texts)).max() < 1e-5


def test_scores_are_those_of_the_index_that_bm25s_makes_itself() -> None:
    texts = invented(500, 60, seed=1)
    theirs = bm25s.BM25(k1=1.2, b=0.5, method="lucene")
    theirs.index(texts, show_progress=False)
    ours = BM25.of(Counts.of(texts), 1.2, 0.5)
    assert np.abs(ours.scores(texts[9]) - theirs.get_scores(texts[9])).max() < 1e-5


def test_a_saved_index_is_opened_by_bm25s_and_by_us(tmp_path: Path) -> None:
    texts = invented(80, 20, seed=2)
    made = BM25.of(Counts.of(texts))
    made.save(tmp_path / "bm25")
    theirs, ours = bm25s.BM25.load(tmp_path / "bm25", mmap=True), BM25.open(tmp_path / "bm25")
    assert (ours.scores(texts[4]) == made.scores(texts[4])).all()
    assert np.allclose(theirs.get_scores(texts[4]), made.scores(texts[4]))


def test_a_text_is_found_by_five_of_its_words_among_20_000() -> None:
    texts = invented(20_000, 40, words=20_000, seed=3)
    texts = [text + text[:5] if len(text) < 8 else text for text in texts]
    index = BM25.of(Counts.of(texts))
    chance = random.Random(4)
    asked = [place for place in chance.sample(range(len(texts)), 400) if len(set(texts[place])) >= 8]
    found = 0
    for place in asked:
        rarest = sorted(set(texts[place]), key=lambda word: -int(word[1:]))[:5]
        found += int(index.scores(rarest).argmax() == place)
    assert found / len(asked) >= 0.97


def test_an_unheard_word_scores_nothing_and_so_does_an_empty_index() -> None:
    assert BM25.of(Counts.of([["a"]])).scores(["b"]).tolist() == [0.0]
    assert BM25.of(Counts.of([])).scores(["b"]).tolist() == []


@given(TEXTS, TEXTS, st.data())
def test_counts_that_were_taken_apart_and_joined_are_those_of_the_texts(
    first: list[list[str]], second: list[list[str]], data: st.DataObject
) -> None:
    both = [*first, *second]
    rows = data.draw(st.lists(st.integers(0, len(both) - 1), max_size=10)) if both else []
    joined = Counts.stacked([Counts.of(first), Counts.of(second)], np.array(rows, np.int64))
    anew = Counts.of([both[row] for row in rows])
    assert joined.vocabulary == anew.vocabulary
    assert (joined.matrix.toarray() == anew.matrix.toarray()).all()
    back = BM25.of(anew).counts()
    assert back.vocabulary == anew.vocabulary
    assert (back.matrix.toarray() == anew.matrix.toarray()).all()


def test_damaged_files_are_a_storage_error(tmp_path: Path) -> None:
    BM25.of(Counts.of([["a", "b"], ["b"]])).save(tmp_path / "bm25")
    for name in ("vocab.index.json", "data.csc.index.npy", "frequencies.npy", "params.index.json"):
        path = tmp_path / "bm25" / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(StorageError):
            BM25.open(tmp_path / "bm25")
        path.write_bytes(whole)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    BM25.of(Counts.of([["a"]])).save(tmp_path / "bm25")
    np.save(tmp_path / "bm25" / "frequencies.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(StorageError):
        BM25.open(tmp_path / "bm25")


def test_english_stop_words_are_lucenes() -> None:
    assert stop_words("none") == frozenset()
    assert {"the", "of", "and"} <= stop_words("english")
    assert "capital" not in stop_words("english")
