"""Search a corpus by words and by meaning, exactly, and make one ranking of both.

    retriever = HybridRetriever(corpus)
    hits = retriever.search("capital of Norway", k=5)

Words find names, codes and rare terms; meaning finds paraphrases. Each gives its best ``depth`` chunks, and reciprocal
rank fusion joins them, which needs no calibration of scores. Of duplicates one chunk is found, the first by id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeps.errors import SettingsError
from keeps.retrieval.approximate import NearVectors
from keeps.retrieval.corpus import Corpus
from keeps.retrieval.dense import unit_rows
from keeps.retrieval.lexical import stop_words
from keeps.retrieval.ranking import RRF_CONSTANT, Rows, best_rows, diverse, min_max_sum, reciprocal_ranks
from keeps.retrieval.rerank import Reranker
from keeps.retrieval.table import DOCUMENT, Table
from keeps.retrieval.words import without, words_of
from keeps.sources import Hit

DEPTH = 100  # chunks that each way of searching gives
RERANKED = 50
COMMON = 0.1
FUSIONS = ("rrf", "min_max")


class HybridRetriever:
    """A :class:`keeps.sources.Retriever` over a corpus.

    Args:
        lexical: search by words.
        dense: search by meaning; None where the corpus has vectors.
        fusion: ``"rrf"`` or ``"min_max"`` (weighted sum of stretched scores).
        weights: of words and meaning in the fusion.
        depth: chunks that each way gives.
        constant: of reciprocal rank fusion.
        rerank: reads query and chunk together and gives the final score of the best ``reranked`` chunks.
        diversity: balance of relevance (1) against unlikeness to what was chosen before, by vectors; None for none.
        common: in a fused search, words that stand in more than this share of the chunks find nothing: ranks that only
            "who" and "in" have made are no evidence, and a fusion of ranks cannot see that. None for all words.
        least_cosine: chunks below are not found by meaning; without it every query finds something.
        approximate: search vectors with faiss instead of exactly (extra ``faiss``).

    Raises:
        SettingsError: nothing to search with, or the corpus has no vectors and meaning or diversity is asked for.
        MissingDependencyError: bm25s or faiss is not installed.
    """

    def __init__(
        self,
        corpus: Corpus,
        lexical: bool = True,
        dense: bool | None = None,
        *,
        fusion: str = "rrf",
        weights: Sequence[float] = (1.0, 1.0),
        depth: int = DEPTH,
        constant: float = RRF_CONSTANT,
        rerank: Reranker | None = None,
        reranked: int = RERANKED,
        diversity: float | None = None,
        common: float | None = COMMON,
        least_cosine: float | None = None,
        approximate: bool = False,
    ) -> None:
        has_vectors = corpus.encoder_name is not None
        self.dense = has_vectors if dense is None else dense
        if not (lexical or self.dense):
            raise _refused("neither words nor meaning are searched", "set lexical or dense")
        if (self.dense or diversity is not None) and not has_vectors:
            raise _refused("the corpus has no vectors", "make it with an encoder, or search by words alone")
        if approximate and not self.dense:
            raise _refused("approximate search is search by meaning", "set dense, or take approximate away")
        if fusion not in FUSIONS or len(weights) != 2 or min(weights) < 0 or depth < 1 or reranked < 1 or constant < 0:
            mend = "take rrf or min_max, two weights that are not negative, and a depth of at least 1"
            raise _refused("fusion, weights, depth or constant are out of range", mend)
        if diversity is not None and not 0 <= diversity <= 1:
            raise _refused(f"a diversity of {diversity} is out of range", "take a balance between 0 and 1")
        self.corpus, self.lexical, self.fusion, self.weights = corpus, lexical, fusion, tuple(weights)
        self.depth, self.constant, self.rerank, self.reranked = depth, constant, rerank, reranked
        self.diversity, self.least_cosine, self.approximate = diversity, least_cosine, approximate
        self.common = common
        self._near: tuple[Table, NearVectors] | None = None

    def __len__(self) -> int:
        return len(self.corpus)

    def search(self, query: str, k: int = 5, where: Mapping[str, Any] | None = None) -> list[Hit]:
        """At most ``k`` chunks, best first, no text twice; none for an empty query or where nothing fits.

        Args:
            where: only documents whose meta has these values.

        Raises:
            SettingsError: ``k`` is below 1, or the encoder is not that of the index.
        """
        if k < 1:
            raise _refused(f"{k} chunks cannot be found", "ask for at least one")
        table = self.corpus.table()
        if not query.strip() or not len(table):
            return []
        eligible = table.representatives if not where else table.firsts(_having(table, where))
        if not eligible.any():
            return []
        depth = max(self.depth, k, self.reranked if self.rerank else 0)
        lists: dict[str, tuple[Rows, NDArray]] = {}
        if self.lexical:
            lists["bm25"] = self._by_words(table, query, eligible, depth)
        if self.dense:
            lists["dense"] = self._by_meaning(table, query, eligible, depth)
        rows, scores = self._fused(lists)
        ranks = {name: {row: rank for rank, row in enumerate(found[0].tolist(), 1)} for name, found in lists.items()}
        wanted = self.reranked if self.rerank else depth if self.diversity is not None else k
        rows = rows[:wanted]
        hits = [_hit(table, row, score, ranks) for row, score in zip(rows.tolist(), scores.tolist(), strict=False)]
        if self.rerank is not None:
            hits, rows = self._reranked(query, hits, rows)
        if self.diversity is not None:
            return self._diverse(table, hits, rows, k)
        return hits[:k]

    def _by_words(self, table: Table, query: str, eligible: NDArray, depth: int) -> tuple[Rows, NDArray]:
        words = without(words_of(query), stop_words(self.corpus.settings.stop_words))
        if self.dense and self.common is not None:
            words = table.lexical.rare(words, self.common)
        scores = table.lexical.scores(words)[table.groups]
        rows = best_rows(scores, depth, eligible, above=0.0)
        return rows, scores[rows]

    def _by_meaning(self, table: Table, query: str, eligible: NDArray, depth: int) -> tuple[Rows, NDArray]:
        embedder, vectors = self.corpus.embedder, table.vectors
        if embedder is None or vectors is None:  # was refused when the retriever was made
            raise _refused("the corpus has no vectors", "make it with an encoder")
        vector = unit_rows(embedder.queries([query]), vectors.width)[0]
        above = -np.inf if self.least_cosine is None else np.nextafter(np.float32(self.least_cosine), np.float32(-2))
        # few eligible rows are searched exactly: an approximate search would mostly pass others
        if self.approximate and eligible.sum() > max(depth, len(table) // 2):
            if self._near is None or self._near[0] is not table:
                self._near = (table, NearVectors(vectors))
            return self._near[1].search(vector, depth, eligible, above=float(above))
        scores = vectors.scores(vector)
        rows = best_rows(scores, depth, eligible, above=float(above))
        return rows, scores[rows]

    def _fused(self, lists: Mapping[str, tuple[Rows, NDArray]]) -> tuple[Rows, NDArray]:
        if len(lists) == 1:
            return next(iter(lists.values()))
        rows = [found for found, _ in lists.values()]
        if self.fusion == "rrf":
            return reciprocal_ranks(rows, self.weights, self.constant)
        return min_max_sum(rows, [scores for _, scores in lists.values()], self.weights)

    def _reranked(self, query: str, hits: list[Hit], rows: Rows) -> tuple[list[Hit], Rows]:
        """The best chunks by the reranker's score, with their rank before; the others are left out."""
        if self.rerank is None or not hits:
            return hits, rows
        scores = np.asarray(self.rerank.scores(query, [hit.text for hit in hits]), np.float64)
        if scores.shape != (len(hits),) or not np.isfinite(scores).all():
            raise _refused("the reranker does not give one finite score for each chunk", "mend its method scores")
        order = best_rows(scores, len(hits))
        found = [
            replace(hits[place], score=float(scores[place]), ranks={**hits[place].ranks, "fused": place + 1})
            for place in order.tolist()
        ]
        return found, rows[order]

    def _diverse(self, table: Table, hits: list[Hit], rows: Rows, k: int) -> list[Hit]:
        if table.vectors is None or self.diversity is None or not hits:
            return hits
        values = np.array([hit.score for hit in hits])
        spread = values.max() - values.min()
        relevance = (values - values.min()) / spread if spread > 0 else np.ones(len(hits))
        vectors = table.vectors.take(rows)
        return [hits[place] for place in diverse(relevance.tolist(), vectors @ vectors.T, k, self.diversity)]


def _having(table: Table, where: Mapping[str, Any]) -> NDArray[np.bool_]:
    wanted = where.items()  # ``where`` itself is no value of any document
    documents = [all(meta.get(name, where) == value for name, value in wanted) for meta in table.metas]
    return np.array(documents)[table.chunks[:, DOCUMENT]]


def _hit(table: Table, row: int, score: float, ranks: Mapping[str, Mapping[int, int]]) -> Hit:
    document, start, end = table.chunks[row, :3].tolist()
    entry = table.entries[document]
    placed = {name: places[row] for name, places in ranks.items() if row in places}
    return Hit(table.chunk_id(row), table.chunk(row), score, entry.id, (start, end), entry.title, placed)


def _refused(what: str, mend: str) -> SettingsError:
    return SettingsError(what, where="HybridRetriever", mend=mend)
