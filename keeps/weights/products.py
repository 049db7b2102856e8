"""Inner products of whole tensors, piece by piece: norms, angles, and all that lies in the span of the models."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations_with_replacement
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from keeps.weights.halves import Floats
from keeps.weights.merge_method import BLOCK, Chunk, Stage, TensorInfo, block_sums


def pairs(count: int) -> list[tuple[int, int]]:
    """Pairs of rows in the order in which their products are kept."""
    return list(combinations_with_replacement(range(count), 2))


def as_matrix(products: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The symmetric matrix ``(count, count)`` of products in the order of :func:`pairs`."""
    matrix = np.zeros((count, count))
    for value, (i, j) in zip(products, pairs(count), strict=True):
        matrix[i, j] = matrix[j, i] = value
    return matrix


def quick_block_sums(rows: Floats) -> NDArray[np.float64]:
    """Sums of products of ``rows`` ``(k, n)`` by block, ``(pairs, blocks)``; products and blocks in float32.

    About 1e-6 relative: for reports. Methods use :class:`Gram`.
    """
    count = rows.shape[1]
    whole = count - count % BLOCK
    blocks = rows[:, :whole].reshape(len(rows), -1, BLOCK)
    rest = rows[:, whole:]
    found = []
    for i, j in pairs(len(rows)):
        sums = (blocks[i, :, None, :] @ blocks[j, :, :, None]).ravel()  # each a dot product of the linear algebra
        found.append(np.append(sums, rest[i] @ rest[j]) if whole < count else sums)
    return np.stack(found).astype(np.float64)


class Gram(Stage):
    """Inner products of the flattened tensors of all models with each other, in float64."""

    name = "gram"

    def __init__(self, of: Literal["models", "deltas"]) -> None:
        self.of = of

    def measure(self, chunk: Chunk) -> NDArray[np.float64]:
        """Block sums ``(pairs, blocks)``."""
        rows = (chunk.tuned if self.of == "models" else chunk.deltas).astype(np.float64)
        return np.concatenate([block_sums((rows[i] * rows[j])[None]) for i, j in pairs(len(rows))])

    def finish(self, total: NDArray[Any], tensor: TensorInfo, stats: Mapping[str, Any]) -> NDArray[np.float64]:
        """The matrix of inner products ``(models, models)``."""
        del stats
        return as_matrix(total, tensor.models)


def cosines(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines ``(models, models)`` from inner products; 0 where a norm is 0."""
    norms = np.sqrt(np.diag(gram))
    product = np.outer(norms, norms)
    return np.clip(np.divide(gram, product, out=np.zeros_like(gram), where=product > 0), -1, 1)
