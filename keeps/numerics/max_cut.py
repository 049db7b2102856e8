"""A large cut of a weighted graph by local search: nodes change sides as long as the cut grows. Pure Python.

A node whose edges to its own side weigh more than those to the other side is moved, until there is none. At such a
local optimum every node has at least half of its weight across, so that the cut holds at least half of all weight
(Sahni and Gonzalez, "P-complete approximation problems", Journal of the ACM 23, 1976). The largest cut is NP-hard;
the best of several random starts is taken.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

Weights = Mapping[tuple[int, int], float]  # of the edge between two nodes, in either order


def cut_weight(weights: Weights, sides: Sequence[bool]) -> float:
    """Weight of the edges whose ends lie on different sides.

    >>> cut_weight({(0, 1): 2.0, (1, 2): 1.0}, [True, False, False])
    2.0
    """
    return float(sum(weight for (a, b), weight in weights.items() if sides[a] != sides[b]))


def max_cut(weights: Weights, nodes: int, *, seed: int, restarts: int = 10) -> list[bool]:
    """The side of each of ``nodes`` nodes in the best of ``restarts`` local optima; the same for the same seed.

    Args:
        weights: none below 0; edges between nodes numbered from 0, none from a node to itself.

    Raises:
        ValueError: a weight is negative, a node is missing, or an edge leads back to its node.

    >>> sides = max_cut({(0, 1): 1.0, (1, 2): 1.0, (2, 3): 1.0}, 4, seed=0)
    >>> sides[0] == sides[2] != sides[1] == sides[3]
    True
    """
    neighbours: list[dict[int, float]] = [{} for _ in range(nodes)]
    for (a, b), weight in weights.items():
        if a == b or not (0 <= a < nodes and 0 <= b < nodes) or weight < 0:
            raise ValueError(f"the edge {a}-{b} of weight {weight} is none between two of {nodes} nodes")
        neighbours[a][b] = neighbours[a].get(b, 0.0) + weight
        neighbours[b][a] = neighbours[b].get(a, 0.0) + weight
    chance = random.Random(f"max cut:{seed}")
    starts = ([chance.random() < 0.5 for _ in range(nodes)] for _ in range(max(restarts, 1)))
    return max((_improved(neighbours, sides) for sides in starts), key=lambda sides: cut_weight(weights, sides))


def _improved(neighbours: Sequence[Mapping[int, float]], sides: list[bool]) -> list[bool]:
    """``sides`` after moves that each make the cut larger; it is changed in place."""
    moved = True
    while moved:
        moved = False
        for node, near in enumerate(neighbours):
            own = sum(weight for other, weight in near.items() if sides[other] == sides[node])
            across = sum(weight for other, weight in near.items() if sides[other] != sides[node])
            if own > across + 1e-9 * (own + across):  # rounding must not make it move for ever
                sides[node] = not sides[node]
                moved = True
    return sides
