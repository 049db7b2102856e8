"""The k-th largest magnitude of a tensor, or of a whole model, without sorting and without having it in memory.

The bits of non-negative IEEE floats order like integers. One pass counts the upper half of the bits of ``|x|``, which
says in which of 32768 bins the k-th largest lies; a second one counts the lower half within that bin. Exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeps.weights.halves import Floats
from keeps.weights.merge_method import Chunk, Stage, TensorInfo

UPPER, LOWER = 1 << 15, 1 << 16
THRESHOLDS = "thresholds"  # the name of the last stage's finding
NOTHING = np.uint32(0xFFFFFFFF)  # a threshold that no magnitude reaches

# How many of the largest magnitudes lie at or above each threshold: whole numbers (models, thresholds).
Counts = Callable[[TensorInfo], NDArray[np.int64]]


def magnitude_bits(values: Floats) -> NDArray[np.uint32]:
    """``|values|`` as whole numbers of the same order."""
    return values.view(np.uint32) & np.uint32(0x7FFFFFFF)


def without_small(values: Floats, thresholds: NDArray[np.uint32]) -> Floats:
    """``values`` ``(models, n)`` with 0 for all whose magnitude is below the threshold of their row.

    Whole numbers in place of ``np.where``, which takes three times as long: the sign of ``threshold - 1 - |bits|``,
    drawn out over all bits, is the mask.

    Args:
        thresholds: as :func:`magnitude_bits`, ``(models, 1)``; :data:`NOTHING` keeps nothing.
    """
    below = np.minimum(thresholds.astype(np.int64) - 1, 0x7FFFFFFF).astype(np.int32)
    bits = values.view(np.int32)
    mask = bits & np.int32(0x7FFFFFFF)
    np.subtract(below, mask, out=mask)
    mask >>= 31
    mask &= bits
    return mask.view(np.float32)


def place_from_above(counts: NDArray[np.int64], k: int) -> tuple[int, int]:
    """The bin of the k-th largest of what ``counts`` counts, and its rank within that bin (from 1).

    >>> place_from_above(np.array([4, 0, 2]), 3)  # the third largest is the largest of the lowest bin
    (0, 1)
    """
    above = np.cumsum(counts[::-1])
    position = int(np.searchsorted(above, k))
    place = len(counts) - 1 - position
    return place, k - int(above[position] - counts[place])


class CountingPass(Stage):
    """One of the two passes, made where no pass before found the thresholds."""

    def needed(self, stats: Mapping[str, Any]) -> bool:
        """See :class:`keeps.weights.merge_method.Stage`."""
        return stats.get(THRESHOLDS) is None


class UpperBits(CountingPass):
    """First pass: counts of the upper half of the bits; finds the bin of each threshold."""

    name = "upper_bits"

    def __init__(self, counts: Counts, *, whole_model: bool = False) -> None:
        self.counts, self.whole_model = counts, whole_model

    def measure(self, chunk: Chunk) -> NDArray[np.int64]:
        """Counts ``(models, 32768)``."""
        upper = (magnitude_bits(chunk.deltas) >> np.uint32(16)).astype(np.intp)
        return np.stack([np.bincount(row, minlength=UPPER) for row in upper])

    def finish(self, total: NDArray[Any], tensor: TensorInfo, stats: Mapping[str, Any]) -> NDArray[np.int64]:
        """Bin and rank within it, ``(models, thresholds, 2)``; bin -1 where nothing is kept."""
        del stats
        wanted = self.counts(tensor)
        found = np.zeros((*wanted.shape, 2), dtype=np.int64)
        for place, k in np.ndenumerate(wanted):
            row = total[place[0]]
            found[place] = (-1, 0) if k < 1 else place_from_above(row, min(int(k), int(row.sum())))
        return found


class LowerBits(CountingPass):
    """Second pass: counts of the lower half of the bits within each bin; finds the thresholds themselves."""

    name = THRESHOLDS

    def __init__(self, *, whole_model: bool = False) -> None:
        self.whole_model = whole_model

    def measure(self, chunk: Chunk) -> NDArray[np.int64]:
        """Counts ``(models, thresholds, 65536)``."""
        bins = chunk.stats[UpperBits.name][..., 0]
        bits = magnitude_bits(chunk.deltas)
        found = np.zeros((*bins.shape, LOWER), dtype=np.int64)
        for place, wanted in np.ndenumerate(bins):
            if wanted >= 0:
                lower = bits[place[0]] ^ np.uint32(wanted << 16)  # below 65536 where the upper half is this bin
                found[place] = np.bincount(lower[lower < LOWER].astype(np.intp), minlength=LOWER)
        return found

    def finish(self, total: NDArray[Any], tensor: TensorInfo, stats: Mapping[str, Any]) -> NDArray[np.uint32]:
        """Thresholds as :func:`magnitude_bits`, ``(models, thresholds)``."""
        del tensor
        bins = stats[UpperBits.name]
        found = np.full(bins.shape[:2], NOTHING, dtype=np.uint32)
        for place in np.ndindex(*bins.shape[:2]):
            upper, rank = (int(value) for value in bins[place])
            if upper >= 0:
                found[place] = (upper << 16) | place_from_above(total[place], rank)[0]
        return found


def largest(share: str) -> Counts:
    """Counts for one threshold a model: ``int(share * numel)`` of the largest, ``share`` being a setting."""

    def counts(tensor: TensorInfo) -> NDArray[np.int64]:
        return np.array([[int(value * tensor.numel)] for value in tensor.of_each(share)], dtype=np.int64)

    return counts
