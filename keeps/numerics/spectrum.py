"""How much of a layer a few singular values hold, and how to share a budget of ranks out by it.

CorDA++ (arXiv:2506.13187) scores how compact an oriented spectrum is and uses the score twice: to choose
among several covariances of a layer, and to give layers different ranks. The score used here is the share of
the energy, the sum of the squared singular values of W C', that the adapter's components leave to
the others (knowledge-preserved mode) or hold themselves (instruction-previewed mode).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from math import ceil

import torch
from torch import Tensor


def held(values: Tensor, energy: float) -> float:
    """Share of the energy that some singular values hold, from 0 to 1.

    >>> held(torch.tensor([3.0, 4.0]), 100.0)
    0.25
    """
    return float(values.double().square().sum()) / energy if energy > 0 else 0.0


def compactness(values: Tensor, energy: float, *, largest: bool) -> float:
    """The score of a layer whose adapter takes ``values``: what they hold (largest), or leave to the others."""
    share = held(values, energy)
    return share if largest else 1 - share


def components_for(values: Tensor, share: float) -> int:
    """How many of all singular values, the largest first, hold ``share`` of the energy.

    >>> components_for(torch.tensor([3.0, 1.0, 0.1]), 0.9), components_for(torch.tensor([1.0, 1.0]), 1.0)
    (2, 2)
    """
    summed = values.double().sort(descending=True).values.square().cumsum(0)
    reached = summed >= share * summed[-1]
    return int(reached.to(torch.int64).argmax()) + 1


def described(values: Tensor, rank: int, *, largest: bool) -> dict[str, float]:
    """What a spectrum, all singular values in descending order, says of an adapter of ``rank``.

    Returns:
        ``components``, ``rank``, ``kpm`` and ``ipm`` (shares that the ``rank`` smallest and largest hold),
        ``compactness`` (of the mode that ``largest`` tells) and ``components_99`` (how many hold 99 %).

    >>> described(torch.tensor([3.0, 1.0]), 1, largest=True)["ipm"]
    0.9
    """
    energy = float(values.double().square().sum())
    chosen = values[:rank] if largest else values[len(values) - rank :]
    return {
        "components": len(values),
        "rank": rank,
        "kpm": held(values[len(values) - rank :], energy),
        "ipm": held(values[:rank], energy),
        "compactness": compactness(chosen, energy, largest=largest),
        "components_99": components_for(values, 0.99),
    }


def rank_bounds(rank: int, cap: float, short_side: int) -> tuple[int, int]:
    """Smallest and largest rank that a layer may get: rank / cap to rank * cap, within the layer.

    >>> rank_bounds(16, 2.0, 24), rank_bounds(1, 3.0, 8)
    ((8, 24), (1, 3))
    """
    return max(1, ceil(rank / cap)), min(int(rank * cap), short_side)


def allocated_ranks(
    shares: Mapping[str, Tensor],
    costs: Mapping[str, int],
    bounds: Mapping[str, tuple[int, int]],
    budget: int,
    *,
    largest: bool,
) -> dict[str, int]:
    """A rank for every layer: as compact as they can be together without exceeding ``budget``.

    Every layer gets its smallest rank. Then components are added one at a time: the one with the most energy
    for its cost (``largest``), or with the least. The components of a layer are added in their order,
    so no component is taken before a better one of the same layer.

    Args:
        shares: of the energy of the layer, one for each component that its adapter may take, the one
            to be taken first in front; at least as many as the upper bound.
        costs: trained parameters that one more rank costs in that layer.
        bounds: smallest and largest rank of each layer.
        budget: trained parameters in all.

    >>> allocated_ranks({"a": torch.tensor([.5, .3]), "b": torch.tensor([.4, .1])}, {"a": 2, "b": 2},
    ...     {"a": (1, 2), "b": (1, 2)}, 6, largest=True)
    {'a': 2, 'b': 1}
    """
    ranks = {name: low for name, (low, _) in bounds.items()}
    left = budget - sum(costs[name] * rank for name, rank in ranks.items())
    sign = -1.0 if largest else 1.0
    queue: list[tuple[float, str]] = []

    def offer(name: str) -> None:
        if ranks[name] < bounds[name][1]:
            heapq.heappush(queue, (sign * float(shares[name][ranks[name]]) / costs[name], name))

    for name in ranks:
        offer(name)
    while queue:
        _, name = heapq.heappop(queue)
        if costs[name] <= left:  # a layer that no longer fits is out; a cheaper one may still fit
            left -= costs[name]
            ranks[name] += 1
            offer(name)
    return ranks
