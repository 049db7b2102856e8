"""Which neurons hold private tokens: a path integral of a probability, and those that many texts share.

    Att_j = a_j * integral over s in [0, 1] of dP(s a)/da_j  ~  a_j / m * sum_k dP(k/m a)/da_j,   k = 1..m

Source: Wu et al. 2023, arXiv:2310.20138 (DEPN); the integral is that of Sundararajan et al. 2017, arXiv:1703.01365.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def integrated_gradients(probability: Callable[[Tensor], Tensor], activations: Tensor, *, steps: int = 20) -> Tensor:
    """Att of each activation; they sum to P(a) - P(0) up to the error of ``steps`` summands.

    >>> weights = torch.tensor([1.0, 2.0])
    >>> integrated_gradients(lambda rows: rows @ weights, torch.tensor([3.0, 1.0])).tolist()
    [3.0, 2.0]

    Args:
        probability: of rows of activations ``(steps, neurons)``: one number a row, ``(steps,)``; differentiable.
        activations: a, ``(neurons,)``.

    Returns:
        ``(neurons,)``, as ``activations``.
    """
    share = torch.arange(1, steps + 1, device=activations.device, dtype=activations.dtype) / steps
    rows = (share[:, None] * activations.detach()).requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(probability(rows).sum(), rows)
    return activations.detach() * gradient.mean(0)


def shared_neurons(scores: Tensor, *, count: int, threshold: float = 0.1) -> Tensor:
    """The neurons that most texts have among their strong ones; of equally many, those with the larger sum.

    A neuron is strong in a text where its score is above ``threshold`` times the largest score of that text.

    >>> shared_neurons(torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.9, 1.0]]), count=1).tolist()
    [1]

    Args:
        scores: ``(texts, neurons)``.
        count: how many at most; fewer where fewer are strong in any text.

    Returns:
        Their numbers, ``(at most count,)`` int64, the first the most shared.
    """
    strong = (scores > threshold * scores.amax(1, keepdim=True)) & (scores > 0)
    texts, total = strong.sum(0), (scores * strong).double().sum(0)
    order = total.argsort(descending=True, stable=True)
    order = order[texts[order].argsort(descending=True, stable=True)]
    return order[: min(count, int((texts > 0).sum()))]
