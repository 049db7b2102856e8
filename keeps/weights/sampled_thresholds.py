"""The k-th largest magnitude of one tensor in one pass: a sample says between which values it lies.

A sample of the tensor brackets each threshold, several standard errors to either side. The pass over the whole tensor
counts what lies above the bracket and collects what lies within, where the threshold is then an element of known rank.
Exact; where the bracket misses, or holds so many elements that they should not be in memory, nothing is found and
:mod:`keeps.weights.magnitudes` counts in two passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeps.weights.magnitudes import NOTHING, THRESHOLDS, Counts, LowerBits, UpperBits, magnitude_bits
from keeps.weights.merge_method import Chunk, Stage, TensorInfo

Bits = NDArray[np.uint32]
BEYOND = 1 << 31  # above the bits of every magnitude
MOST = 1 << 21  # elements of one bracket that are held in memory: 8 MB
ERRORS = 5  # standard errors of the sample on either side


@dataclass
class Collected:
    """What a pass found for each threshold of each model: counts, and elements.

    Attributes:
        above: elements above the bracket, whole numbers ``(models, thresholds)``.
        within: elements in the bracket, of the same shape.
        rows: the bits of these, a list of pieces for each threshold; empty where they are more than :data:`MOST`.
    """

    above: NDArray[np.int64]
    within: NDArray[np.int64]
    rows: list[list[Bits]]

    def __iadd__(self, other: Collected) -> Collected:
        """With another piece of the same tensor."""
        self.above += other.above
        self.within += other.within
        for mine, theirs, count in zip(self.rows, other.rows, self.within.flat, strict=True):
            if count > MOST:
                mine.clear()
            else:
                mine += theirs
        return self


class SampledBracket(Stage):
    """From a sample: the bits from which, and below which, each threshold should lie."""

    name = "bracket"
    sampled = True

    def __init__(self, counts: Counts) -> None:
        self.counts = counts

    def measure(self, chunk: Chunk) -> Collected:
        """All elements of the piece, for each model."""
        rows = magnitude_bits(chunk.deltas)
        nothing, all_of_them = np.zeros((len(rows), 1), dtype=np.int64), np.full((len(rows), 1), rows.shape[1])
        return Collected(nothing, all_of_them, [[row] for row in rows])

    def finish(self, total: Any, tensor: TensorInfo, stats: Mapping[str, Any]) -> NDArray[np.int64]:
        """Brackets ``(models, thresholds, 2)``."""
        del stats
        wanted = self.counts(tensor)
        found = np.zeros((*wanted.shape, 2), dtype=np.int64)
        for model, pieces in enumerate(total.rows):
            ordered = np.sort(np.concatenate(pieces))
            for place, k in enumerate(wanted[model]):
                found[model, place] = bracket(ordered, pieces, int(k) / max(tensor.numel, 1))
        return found


def bracket(ordered: Bits, pieces: list[Bits], share: float) -> tuple[int, int]:
    """Bits from which, and below which, the threshold of the ``share`` largest should lie.

    The error is that of independent elements, or what the pieces of the sample differ by if that is more: rows of an
    embedding differ in size.

    >>> values = np.arange(1000, dtype=np.uint32)
    >>> low, high = bracket(values, [values[::2], values[1::2]], 0.2)
    >>> low < 800 < high
    True
    """
    count = len(ordered)
    middle = ordered[min(max(count - round(share * count), 0), count - 1)]
    shares = np.array([np.count_nonzero(piece >= middle) / len(piece) for piece in pieces])
    apart = float(shares.std()) / math.sqrt(len(pieces))
    margin = ERRORS * max(math.sqrt(share * (1 - share) / count), apart) * count + 2
    lowest, highest = math.floor(count - share * count - margin), math.ceil(count - share * count + margin)
    return int(ordered[lowest]) if lowest >= 0 else 0, int(ordered[highest]) + 1 if highest < count else BEYOND


class BracketedThresholds(Stage):
    """One pass over the tensor: counts above the bracket, elements within, and so the thresholds themselves."""

    name = THRESHOLDS

    def __init__(self, counts: Counts) -> None:
        self.counts = counts

    def measure(self, chunk: Chunk) -> Collected:
        """Of one piece."""
        brackets = chunk.stats[SampledBracket.name]
        above, within = (np.zeros(brackets.shape[:2], dtype=np.int64) for _ in range(2))
        rows = []
        for model, bits in enumerate(magnitude_bits(chunk.deltas)):
            for place, (low, high) in enumerate(brackets[model]):
                above[model, place] = np.count_nonzero(bits >= np.uint32(high))
                distance = bits - np.uint32(low)  # what is lower wraps around to large numbers
                found = bits[distance < np.uint32(high - low)]
                within[model, place] = len(found)
                rows.append([found])
        return Collected(above, within, rows)

    def finish(self, total: Any, tensor: TensorInfo, stats: Mapping[str, Any]) -> Bits | None:
        """Thresholds ``(models, thresholds)`` as :func:`keeps.weights.magnitudes.magnitude_bits`; None if not found."""
        del stats
        wanted = np.minimum(self.counts(tensor), tensor.numel)
        found = np.full(wanted.shape, NOTHING, dtype=np.uint32)
        for (place, k), pieces in zip(np.ndenumerate(wanted), total.rows, strict=True):
            if k < 1:
                continue
            rank, count = int(k - total.above[place]), int(total.within[place])
            if count > MOST or not 1 <= rank <= count:
                return None
            found[place] = np.partition(np.concatenate(pieces), count - rank)[count - rank]
        return found


def threshold_stages(counts: Counts, *, whole_model: bool = False) -> tuple[Stage, ...]:
    """The passes after which ``chunk.stats["thresholds"]`` holds what ``counts`` asks for.

    Over a whole model the sample's error is as many elements as do not fit into memory: there it is two passes.
    """
    counted = (UpperBits(counts, whole_model=whole_model), LowerBits(whole_model=whole_model))
    return counted if whole_model else (SampledBracket(counts), BracketedThresholds(counts), *counted)
