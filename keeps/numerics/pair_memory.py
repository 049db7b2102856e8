"""A memory of key and value vectors, read by a query: weights, what is read, and the loss that teaches to find it.

    s_i = h_X . k_i                                              score of pair i for the input X
    p(m_i|X) = exp(s_i) / sum over the K best of exp(s_j)        weight
    H = concat( f(X), V_(1), ..., V_(K) )                        what the decoder attends to
    L_ret = -log ( sum over P(X) of exp(s_i) / sum over B of exp(s_j) )

Source: Chen et al. 2023, "Augmenting pre-trained language models with QA-memory for open-domain question answering"
(EACL 2023, arXiv:2204.04581). ``P(X)`` are all pairs known to be relevant: one sum inside the logarithm, and not one
cross-entropy a pair, so that pairs of one passage do not push each other away.
"""

from __future__ import annotations

import torch
from torch import Tensor


def top_pairs(scores: Tensor, k: int, taken: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The ``k`` best pairs of every query and their weights, which add up to 1.

    Args:
        scores: ``(queries, pairs)``.
        taken: ``(queries, before)`` int64, pairs that a round before has read: they are not read again.

    Returns:
        ``(queries, k)`` int64 places, best first (fewer where there are fewer pairs), and ``(queries, k)`` weights,
        which carry the gradient of the scores.

    >>> places, weights = top_pairs(torch.tensor([[0.0, 2.0, 1.0]]), 2)
    >>> places.tolist(), [round(weight, 4) for weight in weights[0].tolist()]
    ([[1, 2]], [0.7311, 0.2689])
    """
    room = scores.shape[1]
    if taken is not None and taken.numel():
        scores = scores.scatter(1, taken, -torch.inf)
        room -= taken.shape[1]
    best, places = scores.topk(max(min(k, room), 0), dim=1)
    return places, best.softmax(dim=1)


def relevance_losses(scores: Tensor, relevant: Tensor, among: Tensor | None = None) -> Tensor:
    """``L_ret`` of each query that has a relevant pair, in nats; the others are left out.

    Args:
        scores: ``(queries, pairs)``.
        relevant: ``(queries, pairs)`` bool, the set ``P(X)``.
        among: ``(queries, pairs)`` bool, the set ``B``; None: all. Relevant pairs always belong to it.

    Returns:
        ``(queries with a relevant pair,)``.

    >>> losses = relevance_losses(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[True, True, False]]))
    >>> round(float(losses[0]), 4)
    0.0943
    """
    chosen = relevant.any(dim=1)
    scores, relevant = scores[chosen], relevant[chosen]
    whole = scores if among is None else scores.masked_fill(~(among[chosen] | relevant), -torch.inf)
    return whole.logsumexp(dim=1) - scores.masked_fill(~relevant, -torch.inf).logsumexp(dim=1)


def joined(
    states: Tensor, mask: Tensor, values: Tensor, value_mask: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``H``: the states of the input, and behind them those of the pairs, token by token.

    Args:
        states: ``(batch, time, width)``.
        mask: ``(batch, time)`` int64, 1 for tokens and 0 for padding.
        values: ``(batch, k, length, width)``; value_mask: ``(batch, k, length)``.
        weights: ``(batch, k)``, by which the values are scaled; None: they are not.

    Returns:
        ``(batch, time + k * length, width)`` and its mask.

    >>> H, mask = joined(torch.zeros(1, 2, 4), torch.ones(1, 2), torch.ones(1, 3, 5, 4), torch.ones(1, 3, 5))
    >>> tuple(H.shape), tuple(mask.shape)
    ((1, 17, 4), (1, 17))
    """
    if weights is not None:
        values = values * weights[:, :, None, None]
    flat, flat_mask = values.flatten(1, 2), value_mask.flatten(1, 2)
    return torch.cat([states, flat], dim=1), torch.cat([mask, flat_mask.to(mask.dtype)], dim=1)


def packed(states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """``states`` with their padding moved to the end and cut to the longest row, tokens in the same order.

    What reads distances between positions would otherwise see the gaps that padding leaves between texts, which depend
    on what else is in the batch.

    Args:
        states: ``(batch, length, width)``.
        mask: ``(batch, length)`` int64, 1 for tokens and 0 for padding.

    Returns:
        ``(batch, tokens of the longest row, width)`` and its mask.

    >>> rows, kept = packed(torch.tensor([[[1.0], [0.0], [2.0]]]), torch.tensor([[1, 0, 1]]))
    >>> rows.tolist(), kept.tolist()
    ([[[1.0], [2.0]]], [[1, 1]])
    """
    order = mask.argsort(dim=1, descending=True, stable=True)[:, : int(mask.sum(1).max())]
    return states.gather(1, order[..., None].expand(-1, -1, states.shape[2])), mask.gather(1, order)
