"""Which neurons a token hangs on: a path integral of its probability, and those that several texts share.

    Att_j = a_j * integral over s in [0, 1] of dP(s a)/da_j  ~  a_j / m * sum_k dP(k/m a)/da_j,   k = 1..m

Source: Dai et al. 2022, arXiv:2104.08696 (knowledge neurons), and Wu et al. 2023, arXiv:2310.20138 (DEPN); the integral
is that of Sundararajan et al. 2017, arXiv:1703.01365.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

STEP = 0.05  # by which the share of texts goes up or down while neurons are refined
_ROUNDING = 1e-9  # 0.7 of 10 texts are 7, not 7.000000000000001


def integrated_gradients(probability: Callable[[Tensor], Tensor], activations: Tensor, *, steps: int = 20) -> Tensor:
    """Att of each activation; they sum to P(a) - P(0) up to the error of ``steps`` summands.

    >>> weights = torch.tensor([1.0, 2.0])
    >>> integrated_gradients(lambda rows: rows @ weights, torch.tensor([3.0, 1.0])).tolist()
    [3.0, 2.0]

    Args:
        probability: of rows of activations ``(..., steps, neurons)``: one number a row, ``(..., steps)``, in which a
            row counts for itself alone; differentiable.
        activations: a, ``(..., neurons)``.

    Returns:
        ``(..., neurons)``, as ``activations``.
    """
    share = torch.arange(1, steps + 1, device=activations.device, dtype=activations.dtype) / steps
    rows = (share[:, None] * activations.detach()[..., None, :]).requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(probability(rows).sum(), rows)
    return activations.detach() * gradient.mean(-2)


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
    return _by_texts(scores, threshold)[0][:count]


def refined_neurons(
    scores: Tensor, *, threshold: float = 0.2, share: float = 0.7, least: int = 2, most: int | None = 5
) -> tuple[Tensor, float]:
    """The neurons that are strong in a share p of the texts, with p moved until they are neither too few nor too many.

    p begins at ``share`` and goes down by :data:`STEP` while fewer than ``least`` have it, or up while more than
    ``most`` have. Where one step leads from too many to too few, the lower p counts, and of its neurons those that come
    first in the order of :func:`shared_neurons`. Source: arXiv:2104.08696, section 4.1, where p is moved for the facts
    of a relation together and here for each fact.

    >>> scores = torch.tensor([[1.0, 0.9, 0.3, 0.0], [1.0, 0.1, 0.0, 0.0], [1.0, 0.9, 0.0, 0.1]])
    >>> refined_neurons(scores)[0].tolist(), round(refined_neurons(scores)[1], 2)
    ([0, 1], 0.65)
    >>> refined_neurons(scores, least=0, most=None)[0].tolist()
    [0]

    Args:
        scores: ``(texts, neurons)``.
        threshold: of a strong score, as a share of the text's largest one.
        share: p to begin with.
        most: None moves p down alone.

    Returns:
        Their numbers, int64, the first the most shared; and the p that was used.
    """
    order, texts = _by_texts(scores, threshold)

    def having(p: float) -> int:
        return int((texts >= p * len(scores) - _ROUNDING).sum())

    p = share
    while having(p) < least and p - STEP > _ROUNDING:
        p -= STEP
    while most is not None and having(p) > most and p + STEP < 1 + _ROUNDING and having(p + STEP) >= max(least, 1):
        p += STEP
    return order[: having(p)][:most], p


def _by_texts(scores: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """The neurons that are strong in any text, those of most texts first; and in how many each is."""
    strong = (scores > threshold * scores.amax(1, keepdim=True)) & (scores > 0)
    texts, total = strong.sum(0), (scores * strong).double().sum(0)
    order = total.argsort(descending=True, stable=True)
    order = order[texts[order].argsort(descending=True, stable=True)]
    order = order[: int((texts > 0).sum())]
    return order, texts[order]
