"""Search by meaning: the product of a query's vector with every vector, exact, without a matrix of all products.

Vectors have length 1 and are kept in float16. Products are formed in float32: a sum of products in float16 would be
wrong from the third digit on. A float32 copy stays in memory while it is small; beyond, blocks are converted as they
are read, so that the file may be larger than the memory.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray

from keeps.errors import RecordError

BLOCK = 8192  # rows
HELD_BYTES = 512 * 2**20  # of the float32 copy
DTYPE = np.float16


class Vectors:
    """Vectors that are searched exactly.

    Args:
        rows: ``(n, width)`` float16, of length 1; may be mapped from a file.
    """

    def __init__(self, rows: NDArray[np.float16]) -> None:
        self.rows = rows
        self._held: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return int(self.rows.shape[1])

    def scores(self, query: NDArray) -> NDArray[np.float32]:
        """The cosine of every vector with ``query``, ``(n,)`` float32.

        Args:
            query: ``(width,)``, of length 1.

        Raises:
            RecordError: another width, or a number that is not finite.
        """
        return self.products(unit_rows(np.asarray(query, np.float32)[None], self.width)[0])

    def products(self, query: NDArray) -> NDArray[np.float32]:
        """The inner product of every vector with ``query``, whatever their lengths, ``(n,)`` float32."""
        query = np.asarray(query, np.float32)
        if 4 * self.rows.size <= HELD_BYTES:
            if self._held is None:
                self._held = in_float32(self.rows)
            return self._held @ query
        found = np.empty(len(self), np.float32)
        for start in range(0, len(self), BLOCK):
            found[start : start + BLOCK] = in_float32(self.rows[start : start + BLOCK]) @ query
        return found

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Some of the vectors, ``(len(rows), width)`` float32."""
        return np.asarray(self.rows[rows], np.float32)


def unit_rows(vectors: NDArray, width: int | None = None) -> NDArray[np.float32]:
    """Vectors scaled to length 1; those that have it already stay as they are, to the last bit.

    Raises:
        RecordError: a vector has another width than ``width``, a number that is not finite, or no length.

    >>> unit_rows(np.array([[3.0, 4.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    found = np.asarray(vectors, np.float32)
    if found.ndim != 2 or (width is not None and found.shape[1] != width):
        what = f"vectors of shape {tuple(found.shape)} do not fit an index of width {width}"
        raise RecordError(what, where="vectors", mend="encode texts and queries with one encoder")
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(bad):
        mend = "check the encoder"
        raise RecordError("a vector holds a number that is not finite", where=f"vector {bad[0] + 1}", mend=mend)
    lengths = np.linalg.norm(found.astype(np.float64), axis=1)
    if (lengths == 0).any():
        where = f"vector {int(np.flatnonzero(lengths == 0)[0]) + 1}"
        raise RecordError("a vector has no length", where=where, mend="check the encoder")
    off = np.abs(lengths - 1) > 1e-6
    if off.any():
        found = np.where(off[:, None], found / lengths[:, None], found).astype(np.float32)
    return found


def in_float32(rows: NDArray[np.float16]) -> NDArray[np.float32]:
    """Converted by torch, which is three times as fast at it as numpy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a mapped file is not writable, and nothing is written
        return torch.from_numpy(np.asarray(rows)).float().numpy()
