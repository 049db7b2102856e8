"""Which adapters, and which examples, a few labelled examples call for.

Adapters are ranked by how often they answer rightly and by how likely they find the reasoning behind the answer; among
the best the group whose members are least alike is taken. Examples of a pool are taken by their distance from the
centre of the labelled ones, and then thinned of near copies.

Source: Yang et al., "Leveraging Open Knowledge for Advancing Task Expertise in Large Language Models",
arXiv:2408.15915.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]  # A (rank, in), B (out, rank)


def reasoning_perplexity(logprobs: Sequence[float], tokens: Sequence[int]) -> float:
    """Mean over samples of exp(mean negative log-probability of a sample's tokens).

    >>> round(reasoning_perplexity([-2.0, 0.0], [2, 4]), 4)
    1.8591

    Args:
        logprobs: natural logarithms, summed over the target tokens of each sample.

    Raises:
        ValueError: no sample, or unequal lengths.
    """
    if not logprobs or len(logprobs) != len(tokens):
        raise ValueError(f"{len(logprobs)} sums for {len(tokens)} samples")
    return sum(math.exp(-each / count) for each, count in zip(logprobs, tokens, strict=True)) / len(logprobs)


def mean_ranks(values: Sequence[float], *, highest_first: bool = False) -> list[float]:
    """Place of each value from 1, equal ones at their mean place.

    >>> mean_ranks([0.6, 0.6, 0.4], highest_first=True)
    [1.5, 1.5, 3.0]
    """
    sign = -1 if highest_first else 1
    ordered = [sign * value for value in values]
    below = [sum(other < value for other in ordered) for value in ordered]
    equal = [sum(other == value for other in ordered) for value in ordered]
    return [low + (same + 1) / 2 for low, same in zip(below, equal, strict=True)]


def fused_order(accuracy: Sequence[float], perplexity: Sequence[float]) -> list[int]:
    """Adapters from best to worst: by rank(accuracy) + rank(perplexity), equal ones by perplexity, then as given.

    >>> fused_order([0.6, 0.6, 0.4], [2.1, 1.7, 1.9])
    [1, 0, 2]
    """
    by_accuracy = mean_ranks(accuracy, highest_first=True)
    by_perplexity = mean_ranks(perplexity)
    total = [one + other for one, other in zip(by_accuracy, by_perplexity, strict=True)]
    return sorted(range(len(total)), key=lambda number: (total[number], perplexity[number], number))


def factor_likeness(one: Sequence[Pair], other: Sequence[Pair]) -> float:
    """sum over layers of |cos(A, A')| + |cos(B, B')|, as published; float64.

    Raises:
        ValueError: the adapters have other layers or ranks.
    """
    _check_alike(one, other, ranks=True)
    tensors = [(x, y) for mine, theirs in zip(one, other, strict=True) for x, y in zip(mine, theirs, strict=True)]
    return sum(abs(_cosine(float((x.double() * y.double()).sum()), x, y)) for x, y in tensors)


def product_likeness(one: Sequence[Pair], other: Sequence[Pair]) -> float:
    """sum over layers of |cos(B A, B' A')|: the same however a product is written as factors; ranks may differ.

    No product is formed: <B A, B' A'> = sum((B^T B') * (A A'^T)).

    Raises:
        ValueError: the adapters have other layers.
    """
    _check_alike(one, other, ranks=False)
    total = 0.0
    for (a, b), (c, d) in zip(one, other, strict=True):
        mine, theirs = _inner(a, b, a, b), _inner(c, d, c, d)
        total += abs(_inner(a, b, c, d)) / math.sqrt(mine * theirs) if mine > 0 and theirs > 0 else 0.0
    return total


def most_diverse(likeness: Tensor, candidates: Sequence[int], size: int) -> list[int]:
    """The group of ``size`` candidates whose pairs are least alike in sum; of equal groups that of the first ones.

    Every group is looked at: 210 of 4 among 10.

    Args:
        likeness: ``(n, n)`` symmetric.
        candidates: best first.

    Raises:
        ValueError: fewer candidates than ``size``.
    """
    if not 1 <= size <= len(candidates):
        raise ValueError(f"{size} of {len(candidates)} candidates")
    values = likeness.tolist()
    groups = combinations(candidates, size)
    return list(min(groups, key=lambda group: sum(values[a][b] for a, b in combinations(group, 2))))


def nearest_first(pool: Tensor, shots: Tensor) -> tuple[Tensor, Tensor]:
    """Pool items by Euclidean distance from the plain mean of the shots, the nearest first, and their distances.

    Args:
        pool: ``(n, d)``; ``shots``: ``(k, d)``, at length 1.

    Returns:
        Indices ``(n,)`` int64, and distances ``(n,)`` float64 in the same order.
    """
    distances = torch.linalg.vector_norm(pool.double() - shots.double().mean(0), dim=1)
    order = distances.argsort(stable=True)
    return order, distances[order]


def without_copies(vectors: Tensor, tau: float, *, chains: bool = True) -> list[int]:
    """Rows that are not within cosine distance ``tau`` of an earlier one.

    Args:
        vectors: ``(n, d)``, in the order of preference.
        chains: count earlier rows that were dropped themselves, as published, so that of a chain of likes one remains;
            otherwise only those that were kept, which keeps more.
    """
    rows = torch.nn.functional.normalize(vectors.double(), dim=1)
    kept: list[int] = []
    for number in range(len(rows)):
        earlier = rows[:number] if chains else rows[kept]
        if not len(earlier) or float(1 - (earlier @ rows[number]).max()) >= tau:
            kept.append(number)
    return kept


def padded_pair(a: Tensor, b: Tensor, rank: int, scale: float) -> Pair:
    """A and scale * B with zeros up to ``rank``: the product is scale * B A.

    Raises:
        ValueError: the rank is larger already.
    """
    missing = rank - a.shape[0]
    if missing < 0:
        raise ValueError(f"rank {a.shape[0]} into {rank}")
    wide = torch.cat([scale * b.float(), b.new_zeros(b.shape[0], missing, dtype=torch.float32)], 1)
    return torch.cat([a.float(), a.new_zeros(missing, a.shape[1], dtype=torch.float32)]), wide


def _inner(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> float:
    """<B A, D C> in float64."""
    return float(((b.double().T @ d.double()) * (a.double() @ c.double().T)).sum())


def _cosine(product: float, x: Tensor, y: Tensor) -> float:
    lengths = float(x.double().norm()) * float(y.double().norm())
    return product / lengths if lengths else 0.0


def _check_alike(one: Sequence[Pair], other: Sequence[Pair], *, ranks: bool) -> None:
    if len(one) != len(other):
        raise ValueError(f"{len(one)} and {len(other)} layers")
    for (a, b), (c, d) in zip(one, other, strict=True):
        same = (a.shape[1], b.shape[0]) == (c.shape[1], d.shape[0])
        if not same or (ranks and a.shape != c.shape):
            raise ValueError(f"layers of {tuple(b.shape)} x {tuple(a.shape)} and {tuple(d.shape)} x {tuple(c.shape)}")
