"""Which sequences share a beginning that is worth computing once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CALL_COST = 64  # a forward call more costs about as much as this many tokens (SmolLM2-135M, one CPU core)
MAX_DEPTH = 60  # of the recursion: sequences nested deeper than this stay together


@dataclass(frozen=True)
class PrefixGroup:
    """Sequences that are computed together: the first ``length`` tokens once, the rest of each."""

    length: int
    members: tuple[int, ...]


def plan_prefixes(sequences: Sequence[Sequence[int]], *, call_cost: int = CALL_COST) -> list[PrefixGroup]:
    """Group sequences by common beginnings so that the fewest tokens are computed.

    Sharing saves tokens and costs calls: a group of its own pays ``call_cost`` for its batch and again
    for its prefix. Groups have one level; a sequence is in exactly one of them.

    >>> plan_prefixes([[1] * 50 + [2], [1] * 50 + [3], [4]], call_cost=10)
    [PrefixGroup(length=50, members=(0, 1)), PrefixGroup(length=0, members=(2,))]
    """
    if not sequences:
        return []
    rows = [tuple(sequence) for sequence in sequences]
    order = sorted(range(len(rows)), key=lambda index: rows[index])
    _, groups = _best([rows[index] for index in order], order, call_cost, 0)
    return groups


def _best(rows: list[tuple[int, ...]], order: list[int], call_cost: int, depth: int) -> tuple[int, list[PrefixGroup]]:
    """The cheapest plan for sorted ``rows``, whose numbers are ``order``: its cost in tokens, and its groups."""
    shared = _common(rows[0], rows[-1])  # of all rows, since they are sorted
    groups: list[PrefixGroup] = []
    cost, pooled = 0, []  # rows that stay at this level
    for start, end in _branches(rows, shared):
        alone = sum(len(row) for row in rows[start:end])
        if end - start > 1 and depth < MAX_DEPTH and end - start < len(rows):
            own_cost, own_groups = _best(rows[start:end], order[start:end], call_cost, depth + 1)
            if own_cost < alone - shared * (end - start):
                groups += own_groups
                cost += own_cost
                continue
        pooled += range(start, end)
    if not pooled:
        return cost, groups
    total = sum(len(rows[index]) for index in pooled)
    saved = shared * (len(pooled) - 1) - call_cost
    length = shared if saved > 0 else 0
    groups.append(PrefixGroup(length, tuple(order[index] for index in pooled)))
    return cost + call_cost + total - max(saved, 0), groups


def _common(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    for position, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return position
    return min(len(left), len(right))


def _branches(rows: list[tuple[int, ...]], shared: int) -> list[tuple[int, int]]:
    """Ranges of rows with the same token after the shared ones (rows that end there make one range)."""
    starts = [
        index
        for index in range(len(rows))
        if index == 0 or rows[index][shared : shared + 1] != rows[index - 1][shared : shared + 1]
    ]
    return list(zip(starts, [*starts[1:], len(rows)], strict=True))
