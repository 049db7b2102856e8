"""How often each word stands in each text, as a sparse matrix that rows are taken from and added to exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Counts:
    """Words of texts.

    Attributes:
        vocabulary: every word that occurs, sorted.
        matrix: ``(texts, words)`` int32, scipy CSR with sorted columns and no stored zero.

    Two tables of the same texts in the same order are equal, however they came about.
    """

    vocabulary: tuple[str, ...]
    matrix: Any

    @classmethod
    def of(cls, texts: Iterable[Iterable[str]]) -> Counts:
        """Count the words of each text.

        >>> found = Counts.of([["b", "a", "b"], ["c"]])
        >>> found.vocabulary, found.matrix.toarray().tolist()
        (('a', 'b', 'c'), [[1, 2, 0], [0, 0, 1]])
        """
        places: dict[str, int] = {}
        columns: list[int] = []
        values: list[int] = []
        ends = [0]
        for words in texts:
            found = Counter(words)
            columns += [places.setdefault(word, len(places)) for word in found]
            values += found.values()
            ends.append(len(columns))
        names = np.array(list(places), dtype=object)
        return cls._sorted(names, _csr(values, columns, ends, len(places)))

    @classmethod
    def stacked(cls, parts: Sequence[Counts], rows: NDArray[np.int64]) -> Counts:
        """The ``rows`` of all parts one below another; words that no row has any more are left out.

        >>> first, second = Counts.of([["a"], ["b"]]), Counts.of([["c", "a"]])
        >>> Counts.stacked([first, second], np.array([2, 0])).vocabulary
        ('a', 'c')
        """
        from scipy.sparse import vstack

        names: dict[str, int] = {}
        moved = []
        for part in parts:
            to = np.array([names.setdefault(word, len(names)) for word in part.vocabulary], np.int64)
            moved.append((part.matrix, to))
        width = len(names)
        wide = [
            _csr(matrix.data, to[matrix.indices] if len(to) else matrix.indices, matrix.indptr, width)
            for matrix, to in moved
        ]
        below: Any = vstack(wide, format="csr")
        return cls._sorted(np.array(list(names), dtype=object), below[rows])

    @classmethod
    def _sorted(cls, names: NDArray, matrix: Any) -> Counts:
        """Words without an occurrence taken out, the others in order."""
        used = np.flatnonzero(np.bincount(matrix.indices, minlength=len(names))) if len(names) else np.arange(0)
        order = used[np.argsort(names[used], kind="stable")]
        to = np.zeros(max(len(names), 1), np.int64)
        to[order] = np.arange(len(order))
        made = _csr(matrix.data, to[matrix.indices], matrix.indptr, len(order))
        made.sort_indices()
        return cls(tuple(names[order].tolist()), made)

    def __len__(self) -> int:
        return int(self.matrix.shape[0])


def _csr(values: Any, columns: Any, ends: Any, width: int) -> Any:
    from scipy.sparse import csr_matrix

    shape = (len(ends) - 1, width)
    return csr_matrix((np.asarray(values, np.int32), np.asarray(columns, np.int32), np.asarray(ends)), shape=shape)
