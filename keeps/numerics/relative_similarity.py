"""Relative similarity: are related facts located in more similar places than arbitrary ones?

    RSim = max((Sim_cand - Sim_all) / (1 - Sim_all), 0)

Sim_cand is the mean similarity of the located sets of related facts, Sim_all that of each of them with every other
fact. 0: relation does not show in the location; 1: related facts share their location, and not all facts do.

Source: Ju and Zhang 2023, arXiv:2309.16535, equation of RSim; Zhang et al. 2024, arXiv:2401.01286, apply it to the
blocks that causal tracing finds and take the overlap of equally many blocks as similarity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor

SHUFFLES = 1000


def overlap(one: Set[Hashable], other: Set[Hashable]) -> float:
    """2 |A ∩ B| / (|A| + |B|): the share of both that is common. Of equally large sets |A ∩ B| / |A|.

    >>> overlap({1, 2}, {2, 3}), overlap(set(), {1})
    (0.5, 0.0)
    """
    total = len(one) + len(other)
    return 2 * len(one & other) / total if total else 1.0


def jaccard(one: Set[Hashable], other: Set[Hashable]) -> float:
    """|A ∩ B| / |A ∪ B|; two empty sets are the same.

    >>> jaccard({1, 2}, {2, 3, 4})
    0.25
    """
    union = len(one | other)
    return len(one & other) / union if union else 1.0


SIMILARITIES: Mapping[str, Callable[[Set[Hashable], Set[Hashable]], float]] = {"overlap": overlap, "jaccard": jaccard}


def similarities(sets: Sequence[Set[Hashable]], kind: str = "overlap") -> Tensor:
    """Of all pairs, ``(facts, facts)`` float64, symmetric, 1 on the diagonal."""
    measure = SIMILARITIES[kind]
    found = torch.eye(len(sets), dtype=torch.float64)
    for row, one in enumerate(sets):
        for column in range(row):
            found[row, column] = found[column, row] = measure(one, sets[column])
    return found


def relative_similarity(related: float, everything: float) -> float:
    """RSim of two means; 0 where all sets are the same, so that nothing is left to be explained.

    >>> relative_similarity(0.8, 0.6), relative_similarity(0.5, 0.6), relative_similarity(1.0, 1.0)
    (0.5000000000000001, 0.0, 0.0)
    """
    if math.isnan(related) or math.isnan(everything):
        return math.nan
    return max((related - everything) / (1 - everything), 0.0) if everything < 1 else 0.0


@dataclass(frozen=True)
class Related:
    """What is compared, as pairs ``(facts, facts)`` of ones and zeros float64; no fact is paired with itself.

    Attributes:
        candidates: related pairs.
        everything: every fact that has a related one, with all others.
    """

    candidates: Tensor
    everything: Tensor

    @classmethod
    def of(cls, labels: Sequence[Hashable], within: Hashable | None = None) -> Related:
        """Facts with one label are related; ``within``: those of this label alone are looked at, against all."""
        same = torch.tensor([[float(a == b) for b in labels] for a in labels], dtype=torch.float64)
        apart = 1 - torch.eye(len(labels), dtype=torch.float64)
        looked_at = torch.tensor([float(within is None or label == within) for label in labels], dtype=torch.float64)
        candidates = same * apart * looked_at[:, None]
        return cls(candidates, apart * candidates.any(1).double()[:, None])

    @property
    def unrelated(self) -> Tensor:
        """The pairs of :attr:`everything` that are no candidates."""
        return self.everything - self.candidates


def pair_mean(matrix: Tensor, pairs: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of ``matrix`` over ``pairs``, in each sample of ``weights`` ``(draws, facts)``; all facts once by default.

    A fact that is drawn twice is not paired with its copy.

    Returns:
        ``(draws,)`` float64; not a number where a sample has no pair.
    """
    counts = torch.ones(1, len(matrix), dtype=torch.float64) if weights is None else weights
    total = ((counts @ (matrix * pairs)) * counts).sum(1)
    return total / ((counts @ pairs) * counts).sum(1)


def shuffled_p(matrix: Tensor, labels: Sequence[Hashable], *, seed: int = 0, shuffles: int = SHUFFLES) -> float:
    """How often shuffled labels have as similar related facts: (1 + hits) / (1 + shuffles), one-sided.

    Raises:
        ValueError: no two facts are related, or all are.
    """
    pairs = Related.of(labels)
    if not bool(pairs.candidates.any()) or not bool((Related.of(labels).unrelated).any()):
        raise ValueError("a test of relatedness needs related and unrelated facts")
    observed = float(pair_mean(matrix, pairs.candidates))
    generator = torch.Generator().manual_seed(seed)
    hits = 0
    for _ in range(shuffles):
        order = torch.randperm(len(labels), generator=generator)
        hits += float(pair_mean(matrix[order][:, order], pairs.candidates)) >= observed - 1e-12
    return (1 + hits) / (1 + shuffles)
