"""Search by words: BM25 in Lucene's form, kept in bm25s (Lù 2024, arXiv:2407.03618).

    score(q, d) = sum over words t of q of  idf_t * f_td / (f_td + k1 (1 - b + b |d| / avg))
    idf_t = ln(1 + (N - n_t + 1/2) / (n_t + 1/2))

N texts, n_t of them with the word t, f_td its count in d, |d| the words of d, avg their mean. bm25s holds the summands
of all words and texts as one sparse matrix, so that a query only adds columns. It cannot add or delete texts: the
matrix is therefore formed here from the counts, for all words at once, whenever they change (``of``), and written and
read in bm25s' own format.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeps.errors import MissingDependencyError, StorageError
from keeps.retrieval.counts import Counts

K1, B = 1.5, 0.75
LEAST_COMMON = 10  # texts; a word is common from here on
FREQUENCIES = "frequencies.npy"  # counts beside bm25s' files, in the order of its matrix


class BM25:
    """An index of texts by their words.

    >>> index = BM25.of(Counts.of([["oslo", "city"], ["bergen", "city"]]))
    >>> int(index.scores(["oslo"]).argmax())
    0
    """

    def __init__(self, engine: Any, frequencies: NDArray) -> None:
        self._engine = engine
        self._frequencies = frequencies

    @classmethod
    def of(cls, counts: Counts, k1: float = K1, b: float = B) -> BM25:
        """The index of counted texts.

        Raises:
            MissingDependencyError: bm25s is not installed.
        """
        columns = counts.matrix.tocsc()
        engine = _bm25s().BM25(k1=k1, b=b, method="lucene", backend="numpy")
        texts = columns.shape[0]
        engine.scores = {
            "data": summands(columns.data, columns.indices, columns.indptr, texts, k1, b),
            "indices": columns.indices.astype(np.int32),
            "indptr": columns.indptr.astype(np.int64),
            "num_docs": texts,
        }
        engine.vocab_dict = {word: place for place, word in enumerate(counts.vocabulary)}
        engine.unique_token_ids_set = set(engine.vocab_dict.values())
        engine.nonoccurrence_array = None
        return cls(engine, columns.data.astype(np.uint16 if columns.data.max(initial=0) < 2**16 else np.int32))

    def __len__(self) -> int:
        return int(self._engine.scores["num_docs"])

    def scores(self, words: Sequence[str]) -> NDArray[np.float32]:
        """BM25 of every text for a query, ``(texts,)`` float32; 0 where no word of it stands."""
        known = self._engine.get_tokens_ids(list(words))
        if not known:
            return np.zeros(len(self), np.float32)
        return self._engine.get_scores_from_ids(known)

    def rare(self, words: Sequence[str], share: float, least: int = LEAST_COMMON) -> list[str]:
        """Those ``words`` that stand in at most ``share`` of the texts, or in at most ``least`` of them."""
        ends, places = self._engine.scores["indptr"], self._engine.vocab_dict
        most = max(share * len(self), least)
        return [word for word in words if word in places and ends[places[word] + 1] - ends[places[word]] <= most]

    def counts(self) -> Counts:
        """The counts that the index was made from."""
        from scipy.sparse import csc_matrix

        held = self._engine.scores
        shape = (len(self), len(held["indptr"]) - 1)
        columns = csc_matrix((self._frequencies.astype(np.int32), held["indices"], held["indptr"]), shape=shape)
        rows = columns.tocsr()
        rows.sort_indices()
        return Counts(tuple(self._engine.vocab_dict), rows)

    def save(self, folder: Path) -> None:
        """Write the index into ``folder``, which ``bm25s.BM25.load`` reads too."""
        self._engine.save(folder, show_progress=False)
        np.save(folder / FREQUENCIES, self._frequencies, allow_pickle=False)

    @classmethod
    def open(cls, folder: Path, k1: float = K1, b: float = B) -> BM25:
        """The index in ``folder``, its matrix mapped into memory and not read.

        Raises:
            StorageError: a file is missing or damaged, or the files do not belong together.
            MissingDependencyError: bm25s is not installed.
        """
        settings = {"k1": k1, "b": b, "method": "lucene", "idf_method": "lucene", "backend": "numpy"}
        types = {"dtype": "float32", "int_dtype": "int32", "csc_backend": "auto"}
        load = _bm25s().BM25.load
        try:
            engine = load(folder, mmap=True, show_progress=False, override_params={**settings, **types})
            frequencies = np.load(folder / FREQUENCIES, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, TypeError, KeyError, EOFError) as error:
            what = f"the index of words cannot be read ({str(error)[:200]})"
            raise StorageError(what, where=str(folder), mend="make the index again") from None
        found = cls(engine, frequencies)
        found._check(folder)
        return found

    def _check(self, folder: Path) -> None:
        held = self._engine.scores
        data, indices, ends = held["data"], held["indices"], held["indptr"]
        vocabulary = self._engine.vocab_dict
        fits = (
            isinstance(held["num_docs"], int)
            and all(array.ndim == 1 for array in (data, indices, ends, self._frequencies))
            and len(data) == len(indices) == len(self._frequencies) == (int(ends[-1]) if len(ends) else 0)
            and isinstance(vocabulary, dict)
            and len(ends) == len(vocabulary) + 1
            and list(vocabulary.values()) == list(range(len(vocabulary)))
        )
        if not fits:
            raise StorageError(
                "the files of the index of words do not belong together", where=str(folder), mend="make it again"
            )


def summands(
    frequencies: NDArray, texts: NDArray, ends: NDArray, count: int, k1: float, b: float
) -> NDArray[np.float32]:
    """BM25's summand of every word in every text that has it.

    Args:
        frequencies, texts: count and text of each entry, column by column.
        ends: ``(words + 1,)``; the entries of word t are ``ends[t]:ends[t + 1]``.
        count: number of texts.

    >>> round(float(summands(np.array([1]), np.array([0]), np.array([0, 1]), 1, 1.5, 0.75)[0]), 4)
    0.1151
    """
    having = np.diff(ends)
    weight = np.log(1 + (count - having + 0.5) / (having + 0.5))
    tf = frequencies.astype(np.float64)
    lengths = np.bincount(texts, weights=tf, minlength=count)
    mean = lengths.mean() if count else 1.0
    norm = k1 * (1 - b + b * lengths / mean) if mean else lengths
    return (np.repeat(weight, having) * tf / (tf + norm[texts])).astype(np.float32)


def stop_words(name: str) -> frozenset[str]:
    """Words that are not indexed: ``"none"`` or ``"english"`` (the 33 of Lucene, as bm25s has them)."""
    if name == "none":
        return frozenset()
    from bm25s.stopwords import STOPWORDS_EN

    return frozenset(STOPWORDS_EN)


def _bm25s() -> Any:
    try:
        import bm25s
    except ImportError:
        what = "search by words needs bm25s"
        raise MissingDependencyError(what, where="keeps.retrieval", mend="pip install bm25s") from None
    return bm25s
