"""Which language answers which topic best: expert languages, votes and bounds, and whether there is anything in it.

After Agarwal et al. 2025 (arXiv:2505.14990). Correctness is a table ``(n, L)`` of questions by languages, topics are
labels ``(n,)``. Nothing here knows a model; "language" may be any way of asking.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 100  # permutations counted at once


@dataclass(frozen=True)
class RoutingTable:
    """What each topic says of each language.

    Attributes:
        accuracy: share right by topic and language, ``(k, L)`` float64; nan for a topic without a question.
        counts: questions of each topic, ``(k,)``.
        overall: share right by language, ``(L,)``.
        ranked: languages of each topic from best to worst, ``(k, L)`` int64; the first is the expert.
        supported: whether the topic has questions enough to speak for itself, ``(k,)``.
        order: languages by accuracy over all topics, ``(L,)``: as ranked where a topic says nothing.
    """

    accuracy: Tensor
    counts: Tensor
    overall: Tensor
    ranked: Tensor
    supported: Tensor
    order: Tensor

    @property
    def experts(self) -> Tensor:
        """The expert language of each topic, ``(k,)``."""
        return self.ranked[:, 0]

    @property
    def best_single(self) -> int:
        """The language with the highest accuracy over all topics."""
        return int(self.order[0])


def routing_table(
    labels: Tensor, correct: Tensor, k: int, *, english: int = 0, support: int = 0, shrink: float = 0.0
) -> RoutingTable:
    """Expert language of each topic: l*(c) = argmax_l acc(c, l).

    Ties go to the language that is better over all topics, then to English, then to the first. With ``shrink`` m the
    score is (n acc + m acc_all) / (n + m), with n the topic's questions; infinity leaves the global best everywhere.

    Args:
        labels: topic of each question, ``(n,)``, 0 to k - 1.
        correct: ``(n, L)`` bool.
        support: topics with fewer questions rank languages by their accuracy over all topics; the paper has 0.
        shrink: m in questions; the paper has 0.

    Raises:
        ValueError: no question, or tables of different length.
    """
    if len(labels) != len(correct) or not len(correct):
        raise ValueError(f"{len(labels)} labels for {len(correct)} questions")
    right = torch.zeros(k, correct.shape[1], dtype=torch.float64).index_add_(0, labels, correct.double())
    counts = torch.bincount(labels, minlength=k)
    n = counts[:, None].double()
    overall = correct.double().mean(0)
    order = global_order(overall, english)
    supported = counts >= max(support, 1)
    silent = ~supported[:, None] | torch.tensor(math.isinf(shrink))
    weight = 0.0 if math.isinf(shrink) else shrink
    score = torch.where(silent, overall, (right + weight * overall) / (n + weight).clamp(min=1))
    places = score[:, order].sort(dim=1, descending=True, stable=True).indices
    return RoutingTable(right / torch.where(n > 0, n, torch.nan), counts, overall, order[places], supported, order)


def global_order(overall: Tensor, english: int = 0) -> Tensor:
    """Languages by accuracy over all topics, ``(L,)``; English before others that are as good.

    >>> global_order(torch.tensor([0.5, 0.7, 0.7]), english=2).tolist()
    [2, 1, 0]
    """
    values = overall.tolist()
    ranks = sorted(range(len(values)), key=lambda index: (-values[index], index != english, index))
    return torch.tensor(ranks)


def routed(labels: Tensor, correct: Tensor, experts: Tensor) -> Tensor:
    """Whether each question is right in its topic's expert language, ``(n,)`` bool."""
    return correct[torch.arange(len(correct)), experts[labels]]


def oracle(correct: Tensor) -> Tensor:
    """Whether any language is right, ``(n,)`` bool: the upper bound of every routing."""
    return correct.any(1)


def random_language(correct: Tensor) -> Tensor:
    """Chance that a language drawn at random is right, ``(n,)`` float64."""
    return correct.double().mean(1)


def majority(picks: Tensor, *, ties: str = "first") -> Tensor:
    """The option that most languages pick, ``(n,)`` int64; -1 where none picks any.

    >>> majority(torch.tensor([[2, 1, 1], [3, 0, 2], [-1, -1, 1]])).tolist()
    [1, 3, 1]

    Args:
        picks: option of each language, ``(n, m)`` int64, best language first; -1 is no vote.
        ties: to the option of the ``"first"`` language among the tied ones, or to the ``"smallest"`` option, as the
            official code does by taking a mode.

    Raises:
        ValueError: another rule of ties.
    """
    if ties not in ("first", "smallest"):
        raise ValueError(f"no rule of ties {ties!r}")
    same = (picks[:, :, None] == picks[:, None, :]) & (picks >= 0)[:, None, :]
    votes = torch.where(picks >= 0, same.sum(2), -1)
    leading = votes == votes.max(1, keepdim=True).values
    if ties == "smallest":
        far = picks.max() + 1
        found = torch.where(leading & (picks >= 0), picks, far).min(1).values
        return torch.where((picks >= 0).any(1), found, -1)
    return picks.gather(1, leading.int().argmax(1, keepdim=True))[:, 0]


def top_votes(labels: Tensor, picks: Tensor, ranked: Tensor, *, count: int = 3, ties: str = "first") -> Tensor:
    """Majority among the ``count`` best languages of each question's topic, ``(n,)`` int64; see :func:`majority`."""
    return majority(picks.gather(1, ranked[labels][:, :count]), ties=ties)


def agreement(correct: Tensor) -> Tensor:
    """Share of questions on which two languages are both right or both wrong, ``(L, L)`` float64."""
    values = correct.double()
    return (values.T @ values + (1 - values).T @ (1 - values)) / len(values)


def permutation_p(
    labels: Tensor, correct: Tensor, experts: Tensor, *, permutations: int = 1000, seed: int = 0
) -> float:
    """Chance of a routed accuracy this high where topics say nothing about languages.

    The topics of the test questions are shuffled, so that each question goes to the expert of another one's topic;
    p = (1 + shuffles at least as good) / (1 + shuffles). A language that is better on every topic makes no topic
    effect: a map that names it everywhere has p = 1. The map must come from other questions.

    Args:
        labels: topic of each test question, ``(n,)``.
        correct: ``(n, L)`` bool, on the same questions.
        experts: language of each topic, ``(k,)``.
    """
    chosen = experts[labels]
    seen = int(routed(labels, correct, experts).sum())
    chance = torch.Generator().manual_seed(seed)
    as_good = 0
    for start in range(0, permutations, CHUNK):
        some = min(CHUNK, permutations - start)
        shuffled = chosen[torch.rand(some, len(labels), generator=chance).argsort(1)]
        reached = correct[None].expand(some, -1, -1).gather(2, shuffled[:, :, None])
        as_good += int((reached.sum((1, 2)) >= seen).sum())
    return (1 + as_good) / (1 + permutations)


def paired_bootstrap(one: Tensor, other: Tensor, *, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of mean(one - other) over questions drawn anew in pairs.

    Raises:
        ValueError: different lengths, or no question.
    """
    if len(one) != len(other) or not len(one):
        raise ValueError(f"no pairs of {len(one)} and {len(other)} values")
    differences = one.double() - other.double()
    chance = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(one), (draws, len(one)), generator=chance)
    means = differences[rows].mean(1).sort().values
    outside = int(0.025 * draws)
    return float(means[outside]), float(means[-1 - outside])


def chosen_languages(names: Sequence[Sequence[str]], languages: Sequence[str], fallback: int) -> Tensor:
    """The first of each question's named languages that is asked, as an index ``(n,)``; else ``fallback``."""
    known = {name: index for index, name in enumerate(languages)}
    return torch.tensor([next((known[name] for name in own if name in known), fallback) for own in names])
