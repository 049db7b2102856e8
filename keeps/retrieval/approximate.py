"""Search by meaning that passes most vectors over, for corpora beyond what exact search does in time; through faiss.

Vectors are sorted into cells by their nearest centre, and a query is compared with those of its nearest cells
(Sivic and Zisserman 2003; ``IndexIVFFlat`` of faiss, Douze et al. 2024, arXiv:2401.08281). Centres are learned from
evenly spaced vectors, so that the result is the same each time. Exact search is the default, since it is faster than
any language model up to some hundred thousand chunks and loses nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeps.errors import MissingDependencyError
from keeps.retrieval.dense import BLOCK, Vectors
from keeps.retrieval.ranking import Rows, best_rows

VECTORS_PER_CELL = 40  # what faiss asks for to learn a centre
PROBED = 0.15  # share of cells that a query looks into
LEAST_PROBED = 8


class NearVectors:
    """An approximate index of vectors, made in memory.

    Raises:
        MissingDependencyError: faiss is not installed.
    """

    def __init__(self, vectors: Vectors) -> None:
        faiss = _faiss()
        self._vectors = vectors
        count = len(vectors)
        cells = max(1, min(int(4 * math.sqrt(count)), count // VECTORS_PER_CELL))
        quantiser = faiss.IndexFlatIP(vectors.width)
        self._index = faiss.IndexIVFFlat(quantiser, vectors.width, cells, faiss.METRIC_INNER_PRODUCT)
        spaced = np.linspace(0, count - 1, min(count, cells * VECTORS_PER_CELL)).astype(np.int64)
        self._index.train(vectors.take(np.unique(spaced)))
        for start in range(0, count, BLOCK):
            self._index.add(vectors.take(np.arange(start, min(start + BLOCK, count))))
        self._index.nprobe = min(cells, max(LEAST_PROBED, round(PROBED * cells)))

    def search(
        self, query: NDArray, k: int, eligible: NDArray[np.bool_], *, above: float = -np.inf
    ) -> tuple[Rows, NDArray[np.float32]]:
        """About the best ``k`` of the eligible rows, with their exact cosines."""
        wanted = k + int(len(eligible) - eligible.sum())  # at most so many of those found are not eligible
        _, found = self._index.search(np.asarray(query, np.float32)[None], min(wanted, len(self._vectors)))
        rows = np.unique(found[0][found[0] >= 0])
        scores = self._vectors.take(rows) @ np.asarray(query, np.float32)
        best = best_rows(scores, k, eligible[rows], above=above)
        return rows[best], scores[best]


def _faiss() -> Any:
    try:
        import faiss  # pyright: ignore[reportMissingImports]  (optional)
    except ImportError:
        what = "approximate search needs faiss"
        raise MissingDependencyError(what, where="keeps.retrieval", mend='pip install "keeps[faiss]"') from None
    return faiss
