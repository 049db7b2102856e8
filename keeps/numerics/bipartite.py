"""Two lists matched with each other by likeness: each with any, or one to one. Pure Python.

Sources:
    Kuhn, "The Hungarian method for the assignment problem", Naval Research Logistics Quarterly 2 (1955), and
    Berge, PNAS 43 (1957): a matching is a largest one when no augmenting path is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class MatchScores:
    """Share of predictions that match, share of gold items that are matched, and their harmonic mean, in [0, 1]."""

    precision: float
    recall: float
    f1: float


def maximum_matching(edges: Sequence[Sequence[int]]) -> list[int | None]:
    """The mate of each left node in a largest one-to-one matching; None where it has none.

    Args:
        edges: the right nodes that each left node may be matched with.

    >>> maximum_matching([[0, 1], [0]])
    [1, 0]
    """
    owner: dict[int, int] = {}  # right node -> left node
    for start in range(len(edges)):
        _augment(edges, start, owner)
    mates: list[int | None] = [None] * len(edges)
    for right, left in owner.items():
        mates[left] = right
    return mates


def match_scores(
    similarity: Sequence[Sequence[float]], tau: float, *, gold: int, one_to_one: bool = False
) -> MatchScores:
    """Precision, recall and F1 of predictions against gold items whose similarity is ``tau`` or more.

    Args:
        similarity: ``(predictions, gold)``.
        gold: how many gold items there are.
        one_to_one: a gold item vouches for one prediction only (a largest matching); by default, as published,
            for all that are like it.

    >>> match_scores([[0.9], [0.9]], 0.85, gold=1)
    MatchScores(precision=1.0, recall=1.0, f1=1.0)
    >>> match_scores([[0.9], [0.9]], 0.85, gold=1, one_to_one=True).precision
    0.5

    Raises:
        ValueError: there is no gold item, or a row has another length.
    """
    if gold < 1 or any(len(row) != gold for row in similarity):
        raise ValueError(f"the rows of similarities must have {gold} entries, at least one")
    edges = [[column for column, value in enumerate(row) if value >= tau] for row in similarity]
    if one_to_one:
        told = found = sum(mate is not None for mate in maximum_matching(edges))
    else:
        told, found = sum(map(bool, edges)), len({column for row in edges for column in row})
    precision, recall = told / len(edges) if edges else 0.0, found / gold
    total = precision + recall
    return MatchScores(precision, recall, 2 * precision * recall / total if total else 0.0)


def _augment(edges: Sequence[Sequence[int]], start: int, owner: dict[int, int]) -> None:
    """Search a path from a free left node to a free right one, breadth first, and turn it over."""
    came_from: dict[int, int] = {}  # right node -> the left node it was reached from
    queue = [start]
    for left in queue:
        for right in edges[left]:
            if right in came_from:
                continue
            came_from[right] = left
            if right in owner:
                queue.append(owner[right])
                continue
            _turn_over(right, start, came_from, owner)
            return


def _turn_over(right: int, start: int, came_from: dict[int, int], owner: dict[int, int]) -> None:
    mates = {left: mate for mate, left in owner.items()}
    while True:
        left = came_from[right]
        before = mates.get(left)
        owner[right] = left
        if left == start or before is None:
            return
        right = before
