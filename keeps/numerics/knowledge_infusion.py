"""The arithmetic of knowledge-infused decoding (Liu et al. 2022, arXiv:2204.03084), on logits and gradients alone.

    L(H') = -log Σ_j c_j p'(w_j) + β KL(p' ‖ p)          the loss of activations H', with c_j = 1
    δ ← δ - η g / n^γ,   n = max of ‖g‖ over the steps so far
    z = z_p + λ (z_p' - z_p)                              the geometric mean p'^λ p^(1-λ), in logits

Everything is of rows that have nothing to do with each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from keeps.numerics.divergences import kl_divergence

TINY = 1e-15  # added to the first norm, as published
LEAST_BETA, MOST_BETA = 1e-6, 1e3  # within which an adapted weight stays
BAND = 1.5  # divergences within target / 1.5 and target * 1.5 leave the weight as it is


def log_mass(logits: Tensor, counts: Tensor) -> Tensor:
    """Log-probability of some tokens together.

    Args:
        logits: ``(rows, vocabulary)``, any floating dtype; computed in float32 at least.
        counts: ``(rows, vocabulary)``, how often each token counts; 0 leaves it out.

    Returns:
        ``(rows,)``; -inf where nothing counts.

    >>> log_mass(torch.zeros(1, 4), torch.tensor([[1.0, 0.0, 0.0, 1.0]])).exp().tolist()
    [0.5]
    """
    scores = logits if logits.dtype == torch.float64 else logits.float()
    return (scores + counts.to(scores).log()).logsumexp(-1) - scores.logsumexp(-1)


def infusion_loss(logits: Tensor, others: Tensor, counts: Tensor, beta: Tensor) -> Tensor:
    """L of each row: what is wanted becomes likely, and the policy stays near the unchanged one.

    Args:
        logits: ``(rows, vocabulary)`` of the perturbed policy; ``others``, of the same shape, of the unchanged one.
        counts: see :func:`log_mass`; a row without anything that counts gives the divergence alone.
        beta: ``(rows,)``, weight of the divergence.
    """
    wanted = counts.gt(0).any(-1)
    mass = log_mass(logits, torch.where(wanted[:, None], counts, torch.ones_like(counts)))
    return beta * kl_divergence(logits, others) - torch.where(wanted, mass, torch.zeros_like(mass))


def row_norms(values: Tensor) -> Tensor:
    """Length of each row's numbers, ``(rows,)``; ``values`` is ``(kinds, rows, ...)``, such as keys and values."""
    return values.transpose(0, 1).flatten(1).norm(dim=1)


def descent(gradient: Tensor, norms: Tensor, eta: float, gamma: float) -> Tensor:
    """-η g / n^γ of each row, shaped as ``gradient`` ``(kinds, rows, ...)``; ``norms`` is ``(rows,)``.

    >>> descent(torch.tensor([[[3.0, 4.0]]]), torch.tensor([5.0]), eta=1.0, gamma=1.0).tolist()
    [[[-0.6000000238418579, -0.800000011920929]]]
    """
    return -eta * gradient / _by_row(norms, gradient) ** gamma


def bounded(change: Tensor, reference: Tensor, share: float) -> Tensor:
    """``change`` with each row shortened to at most ``share`` of the length of the reference's row."""
    limit = share * row_norms(reference)
    scale = (limit / row_norms(change).clamp_min(TINY)).clamp_max(1.0)
    return change * _by_row(scale, change)


def fused(logits: Tensor, others: Tensor, share: float) -> Tensor:
    """Scores whose softmax is the geometric mean p'^share p^(1-share), normalised; exact where both are equal."""
    return others + share * (logits - others)


def adapted(beta: Tensor, kl: Tensor, target: float, band: float = BAND) -> Tensor:
    """The weight of the divergence for the next token: doubled after too much of it, halved after too little.

    >>> adapted(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.2, 0.1, 0.01]), target=0.1).tolist()
    [2.0, 1.0, 0.5]
    """
    factor = torch.where(kl > target * band, 2.0, torch.where(kl < target / band, 0.5, 1.0))
    return (beta * factor).clamp(LEAST_BETA, MOST_BETA)


def completing(tokens: Sequence[int], size: int) -> list[int]:
    """The tokens that would make an n-gram of ``size`` stand in ``tokens`` once more; none for size 0.

    >>> completing([5, 6, 7, 5], 2), completing([5, 6], 1), completing([5, 5], 0)
    ([6], [5, 6], [])
    """
    if size < 1 or len(tokens) < size:
        return []
    given = tuple(tokens)
    last = given[len(given) - size + 1 :]
    starts = range(len(given) - size + 1)
    return sorted({given[at + size - 1] for at in starts if given[at : at + size - 1] == last})


def _by_row(values: Tensor, like: Tensor) -> Tensor:
    """``values`` ``(rows,)`` shaped so that they multiply ``like`` ``(kinds, rows, ...)``."""
    return values.view(1, -1, *([1] * (like.dim() - 2)))
