"""Nearest vectors, exactly, and the next-token probabilities of kNN-LM that are made of them.

    p_kNN(y) ∝ sum_{i in k nearest} 1[y = v_i] exp(-d_i / T),     p = lambda p_kNN + (1 - lambda) p_LM

with d the squared Euclidean distance. Khandelwal et al. 2020, arXiv:1911.00172. Probabilities are mixed, not their
logarithms: ``logaddexp`` of weighted log-probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

ELEMENTS = 1 << 24  # of differences that are held at once: 64 MiB in float32


def nearest(queries: Tensor, blocks: Iterable[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest of many vectors to each query, without a matrix of all distances.

    Args:
        queries: ``(rows, width)`` float32.
        blocks: the vectors in pieces, each ``(some, width)`` float32.
        k: neighbours; fewer are given where there are fewer vectors.

    Returns:
        Squared distances ``(rows, k)`` float32, nearest first, and which vectors they are, ``(rows, k)`` int64, counted
        over all blocks. A block is compared by |q|² - 2 q·v + |v|², about the queries' mean, since that cancels where
        vectors are long and close; the distances of those that are chosen are computed again, from differences.
    """
    rows = len(queries)
    best = queries.new_full((rows, 0), math.inf)
    places = torch.zeros((rows, 0), dtype=torch.long, device=queries.device)
    start, centre = 0, queries.mean(0)
    queries = queries - centre
    for block in blocks:
        block = block.to(queries.device) - centre
        rough = (queries**2).sum(1, keepdim=True) - 2 * queries @ block.T + (block**2).sum(1)
        found = rough.topk(min(k, len(block)), largest=False).indices  # (rows, k)
        exact = _distances(queries, block, found)
        best, order = torch.cat([best, exact], 1).sort(dim=1, stable=True)
        places = torch.cat([places, found + start], 1).gather(1, order)[:, :k]
        best, start = best[:, :k], start + len(block)
    return best, places


def _distances(queries: Tensor, block: Tensor, chosen: Tensor) -> Tensor:
    """Squared distances to chosen vectors of a block, some queries at a time."""
    step = max(1, ELEMENTS // max(chosen.shape[1] * block.shape[1], 1))
    pieces = zip(queries.split(step), chosen.split(step), strict=True)
    return torch.cat([((block[places] - rows[:, None]) ** 2).sum(-1) for rows, places in pieces])


def neighbour_weights(distances: Tensor, temperature: float) -> Tensor:
    """The share of each neighbour, softmax of -d / T: ``(rows, k)``, summing to 1.

    >>> neighbour_weights(torch.tensor([[0.0, 0.0]]), 1.0).tolist()
    [[0.5, 0.5]]
    """
    return (-distances / temperature).softmax(-1)


def token_probabilities(weights: Tensor, tokens: Tensor, vocabulary: int) -> Tensor:
    """p_kNN of every token: the neighbours' shares, added up by the token that followed each.

    Args:
        weights: ``(rows, k)``.
        tokens: ``(rows, k)`` int64.

    Returns:
        ``(rows, vocabulary)`` of the dtype of ``weights``.

    >>> token_probabilities(torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[2, 0, 2]]), 3).tolist()[0][2]
    0.699999988079071
    """
    return weights.new_zeros(len(weights), vocabulary).scatter_add_(1, tokens, weights)


def interpolated(lm_logprobs: Tensor, knn: Tensor, share: Tensor | float) -> Tensor:
    """ln(lambda p_kNN + (1 - lambda) p_LM).

    Args:
        lm_logprobs: ln p_LM, of any shape.
        knn: p_kNN, of the same shape.
        share: lambda in [0, 1], a number or a tensor that broadcasts; 0 gives ``lm_logprobs`` bit for bit.
    """
    share = torch.as_tensor(share, dtype=lm_logprobs.dtype, device=lm_logprobs.device)
    mixed = torch.logaddexp(torch.log1p(-share) + lm_logprobs, share.log() + knn.to(lm_logprobs.dtype).log())
    return torch.where(share == 0, lm_logprobs, mixed)


def adaptive_share(largest: float, nearest_distance: Tensor, scale: float) -> Tensor:
    """lambda of each query: ``largest`` exp(-d_1 / scale), the less, the farther the nearest neighbour is.

    Where the datastore has nothing like the text so far, the model is left alone. (After Drozdov et al. 2022,
    arXiv:2210.15859, who make lambda depend on the likeness of what was found; they fit a table of buckets.)

    Args:
        nearest_distance: ``(rows,)``, squared.
        scale: above 0, in the same unit.
    """
    return largest * (-nearest_distance / scale).exp()
