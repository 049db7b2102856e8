"""A feed-forward layer as a sum of its own pieces, and how a router learns which pieces stand for the whole.

    F(x) = W_d (act(W_g x) * W_u x) = sum_j F_j(x),   F_j(x) = W_d[:, B_j] (act(W_g[B_j] x) * W_u[B_j] x)

B_1, ..., B_N are blocks of the inner channels, all of one size. Whatever the order of the channels is, the sum is the
dense layer; only K of N pieces computed is K / N of its multiplications.

Source: Zhao et al., "FactorLLM: Factorizing Knowledge via Mixture of Experts for Large Language Models",
arXiv:2408.11855. Balanced clusters of channels: Zhang et al., "MoEfication", arXiv:2110.01786.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Divergence = Literal["label", "official"]
OFFICIAL_CLIP = 1e-7
ROUNDS = 10  # of assigning channels and averaging them


def expert_outputs(inner: Tensor, down: Tensor, experts: int) -> Tensor:
    """F_j(x) of every piece, ``(tokens, experts, width)``; their sum over pieces is the dense output.

    Args:
        inner: act(W_g x) * W_u x, ``(tokens, channels)``, channels in the order of the blocks.
        down: W_d, ``(width, channels)``, in the same order.
    """
    pieces = inner.unflatten(-1, (experts, -1))
    return torch.einsum("tnm,hnm->tnh", pieces, down.unflatten(-1, (experts, -1)))


def prior_errors(outputs: Tensor, dense: Tensor, active: int) -> Tensor:
    """e_j = mean over the width of (F_j(x) - F(x) K / N)^2, ``(tokens, experts)``.

    Args:
        outputs: F_j(x), ``(tokens, experts, width)``.
        dense: F(x) of the frozen layer, ``(tokens, width)``.
    """
    return (outputs - dense.unsqueeze(-2) * (active / outputs.shape[-2])).square().mean(-1)


def prior_labels(errors: Tensor, active: int) -> Tensor:
    """z, ``(tokens, experts)`` of 0 and 1: the K pieces that come closest to the dense output.

    >>> prior_labels(torch.tensor([[0.3, 0.1, 0.2, 0.4]]), 2).tolist()
    [[0.0, 1.0, 1.0, 0.0]]
    """
    return chosen_mask(-errors, active)


def chosen_mask(scores: Tensor, active: int) -> Tensor:
    """1 at the ``active`` highest scores of each row, 0 elsewhere; in the dtype of ``scores``."""
    return torch.zeros_like(scores).scatter(-1, scores.topk(active, dim=-1).indices, 1.0)


def prior_loss(logits: Tensor, labels: Tensor, divergence: Divergence = "label") -> Tensor:
    """L_PA of each token, ``(tokens,)`` in nats: how far the router is from the labels.

    ``"label"`` is KL(z / K || g), which is 0 where the router spreads itself over the labelled pieces alone.
    ``"official"`` is the published code's KL(g || softmax(z)), both clipped to [1e-7, 1 - 1e-7]: its label is soft
    (0.37 and 0.13 with 2 of 4), so that it keeps the router from being sure.

    Args:
        logits: of the router, ``(tokens, experts)``; g = softmax.
        labels: z, the same shape.

    Raises:
        ValueError: another divergence.
    """
    if divergence == "label":
        wanted = labels / labels.sum(-1, keepdim=True)
        return (torch.xlogy(wanted, wanted) - wanted * logits.log_softmax(-1)).sum(-1)
    if divergence != "official":
        raise ValueError(f"no divergence {divergence!r}")
    gates = logits.softmax(-1).clamp(OFFICIAL_CLIP, 1 - OFFICIAL_CLIP)
    soft = labels.softmax(-1).clamp(OFFICIAL_CLIP, 1 - OFFICIAL_CLIP)
    return (gates * (gates.log() - soft.log())).sum(-1)


def balance_term(gates: Tensor, mask: Tensor) -> Tensor:
    """mean_j g_j 1[j is active] of each token, ``(tokens,)``: small where no active piece is sure of itself."""
    return (gates * mask).mean(-1)


def agreement(mask: Tensor, labels: Tensor) -> Tensor:
    """Share of each token's K labelled pieces that are active, ``(tokens,)``; by chance K / N."""
    return (mask * labels).sum(-1) / labels.sum(-1)


def dispatched(
    x: Tensor, chosen: Tensor, experts: int, piece: Callable[[int, Tensor], Tensor], weights: Tensor | None = None
) -> Tensor:
    """Sum over each token's own pieces, ``(tokens, width)``; no piece is computed for a token that is not its own.

    Tokens are gathered by piece, each piece is computed once for all of its tokens, and results are added back in
    place: one loop over pieces that have tokens, none over tokens.

    Args:
        x: ``(tokens, width)``.
        chosen: pieces of each token, ``(tokens, K)`` int64, none twice in a row.
        piece: F_j of rows, ``(n, width)`` to ``(n, width)``.
        weights: factor of each piece of a token, ``(tokens, K)``; None: 1.
    """
    active = chosen.shape[1]
    if len(x) == 1:  # a token that is being generated: nothing to gather
        parts = [piece(number, x) for number in chosen[0].tolist()]
        if weights is not None:
            parts = [part * weight.to(part.dtype) for part, weight in zip(parts, weights[0], strict=True)]
        alone = parts[0]
        for part in parts[1:]:
            alone = alone + part
        return alone
    flat = chosen.reshape(-1)
    order = flat.argsort(stable=True)
    rows = order // active
    total = torch.zeros_like(x)
    start = 0
    for number, count in enumerate(torch.bincount(flat, minlength=experts).tolist()):
        if not count:
            continue
        mine = rows[start : start + count]
        part = piece(number, x[mine])
        if weights is not None:
            part = part * weights.reshape(-1, 1)[order[start : start + count]].to(part.dtype)
        total.index_add_(0, mine, part.to(total.dtype))
        start += count
    return total


def random_order(channels: int, seed: int) -> Tensor:
    """A permutation of the channels, ``(channels,)`` int64, the same for the same seed."""
    return torch.randperm(channels, generator=torch.Generator().manual_seed(seed))


def clustered_order(features: Tensor, experts: int, seed: int, rounds: int = ROUNDS) -> Tensor:
    """Channels ordered so that like ones lie in one block, all blocks of one size, ``(channels,)`` int64.

    Spherical k-means in which the closest pair of a channel and a centre with room is joined first.

    Args:
        features: what makes channels alike, ``(channels, d)``: their rows of W_g.

    Raises:
        ValueError: the channels cannot be dealt evenly.
    """
    channels = len(features)
    if channels % experts:
        raise ValueError(f"{channels} channels in {experts} blocks")
    size = channels // experts
    rows = functional.normalize(features.double(), dim=1)
    centres = rows[random_order(channels, seed)[:experts]]
    labels = torch.zeros(channels, dtype=torch.long)
    for _ in range(rounds):
        found = _balanced(rows @ centres.T, size)
        if torch.equal(found, labels):
            break
        labels = found
        sums = torch.zeros(experts, rows.shape[1], dtype=rows.dtype).index_add(0, labels, rows)
        centres = functional.normalize(sums, dim=1)
    return labels.argsort(stable=True)


def _balanced(likeness: Tensor, size: int) -> Tensor:
    """A centre for each row of ``likeness`` ``(n, centres)``, each ``size`` times, the most alike pairs first."""
    count, centres = likeness.shape
    labels, room = [-1] * count, [size] * centres
    for place in likeness.flatten().argsort(descending=True, stable=True).tolist():
        row, centre = divmod(place, centres)
        if labels[row] < 0 and room[centre]:
            labels[row], room[centre] = centre, room[centre] - 1
    return torch.tensor(labels)


def multiply_adds(
    width: int, channels: int, experts: int, active: int, matrices: int = 3, *, padding: int = 0
) -> tuple[int, int]:
    """Multiplications of a token in the dense layer, and with K of N pieces and the router.

    >>> multiply_adds(576, 1536, 4, 2)
    (2654208, 1329408)

    Args:
        matrices: 3 of a gated layer, 2 of one without a gate.
        padding: channels of zeros that make the pieces equal.
    """
    router = width * experts if active < experts else 0
    return matrices * width * channels, matrices * width * ((channels + padding) // experts) * active + router
