"""How several sources' next-token distributions become one (Fusion-X, arXiv:2505.23844): tensors in, tensors out.

    r_i = exp(-CE_i)                     how sure source i is of a text, in (0, 1]
    g = softmax(network(r))              what the selection network thinks of the sources
    S = {i : g_i > tau}, or the argmax   the sources that are used for the text
    w_i = g_i / sum_S g on S, else 0     their weights
    L_feed = Var(u) / mean(u)^2          u_i = sum of w_i over the batch: how unevenly sources are used

A source's distribution is kept sparse: the ids and probabilities of a few tokens a position, and what is left over.
"""

from __future__ import annotations

import torch
from torch import Tensor

from keeps.errors import SettingsError, nearest

REMAINDERS = ("renormalise", "uniform", "drop")


def certainty(losses: Tensor) -> Tensor:
    """r = exp(-CE) of mean losses in nats a token, float32: bfloat16 would leave three digits.

    Raises:
        SettingsError: a loss is NaN or negative.
    """
    if bool((~(losses >= 0)).any()):
        raise SettingsError("a source's loss is no number", where="scores", mend="read the source in float32 again")
    return (-losses.float()).exp()


def selected_weights(gate: Tensor, threshold: float) -> Tensor:
    """w of g ``(texts, sources)``; gradients flow through the sources that are selected.

    >>> selected_weights(torch.tensor([[0.6, 0.3, 0.1], [0.4, 0.3, 0.3]]), 0.2).tolist()[0][2]
    0.0
    """
    chosen = gate > threshold
    best = torch.zeros_like(chosen).scatter(-1, gate.argmax(-1, keepdim=True), True)
    chosen = torch.where(chosen.any(-1, keepdim=True), chosen, best)
    kept = gate * chosen
    return kept / kept.sum(-1, keepdim=True)


def feedback(weights: Tensor) -> Tensor:
    """Squared coefficient of variation (unbiased variance) of the sources' use in a batch; 0 for one source.

    Args:
        weights: ``(texts, sources)``.

    >>> feedback(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).item(), feedback(torch.tensor([[1.0, 0.0]])).item()
    (0.0, 2.0)
    """
    use = weights.sum(0)
    if use.numel() < 2:
        return use.sum() * 0.0
    return use.var() / use.mean().square()


def source_weights(losses: Tensor, strategy: str) -> Tensor:
    """w of the strategies without a network, ``(texts, sources)`` of the losses in nats.

    ``"min_ce"`` takes the surest source (FuseLLM-MinCE), ``"avg_ce"`` softmax(r).
    """
    if strategy not in ("min_ce", "avg_ce"):
        raise SettingsError(f'there is no strategy "{strategy}"', mend=nearest(strategy, ("min_ce", "avg_ce")))
    sure = certainty(losses)
    if strategy == "avg_ce":
        return sure.softmax(-1)
    return torch.zeros_like(sure).scatter(-1, losses.argmin(-1, keepdim=True), 1.0)


def kept_probabilities(
    logits: Tensor, logsumexp: Tensor, *, temperature: float = 1.0, remainder: str = "renormalise"
) -> tuple[Tensor, Tensor]:
    """Probabilities of a position's retained tokens, and what is left over for all other tokens.

    Args:
        logits: ``(..., k)``; -inf where a token was dropped.
        logsumexp: ``(...)``, of all the source's logits.
        remainder: ``"renormalise"``: the retained ones hold everything, as published; ``"uniform"``: the rest is spread
            evenly over the vocabulary; ``"drop"``: it is left out, and the position counts for less.

    Returns:
        ``(..., k)`` and ``(...)``; both are 0 where nothing was retained and ``remainder`` is ``"renormalise"``.
    """
    if remainder not in REMAINDERS:
        raise SettingsError(f'remainder is "{remainder}"', mend=nearest(remainder, REMAINDERS))
    if remainder != "renormalise" and temperature != 1:
        mend = "leave one of them at its default"
        raise SettingsError("what lies beyond the retained logits has no temperature", where="temperature", mend=mend)
    if remainder == "renormalise":
        p = (logits / temperature).softmax(-1).nan_to_num(0.0)
        return p, torch.zeros_like(logsumexp)
    p = (logits - logsumexp[..., None]).exp()
    rest = (1 - p.sum(-1)).clamp_min(0.0)
    return p, rest if remainder == "uniform" else torch.zeros_like(rest)


def merged_tokens(ids: Tensor, logits: Tensor) -> Tensor:
    """Logits with -inf where an earlier place of the row has the same id (the first one wins) or the id is below 0.

    >>> merged_tokens(torch.tensor([[3, 4, 3, -1]]), torch.tensor([[1.0, 2.0, 3.0, 4.0]])).tolist()
    [[1.0, 2.0, -inf, -inf]]
    """
    same = ids[..., :, None] == ids[..., None, :]
    before = torch.ones(ids.shape[-1], ids.shape[-1], dtype=torch.bool, device=ids.device).tril(-1)
    return logits.masked_fill((same & before).any(-1) | (ids < 0), -torch.inf)


def sparse_cross_entropy(log_q: Tensor, ids: Tensor, p: Tensor, rest: Tensor) -> Tensor:
    """-sum_v P_i(v) log q(v) of every source's distribution, ``(positions, sources)``.

    The cross-entropy of a mixture sum_i w_i P_i is the same mixture of these, so that no P is ever spread out.

    Args:
        log_q: ``(positions, vocabulary)``, log-probabilities.
        ids, p: ``(positions, sources, k)``; ids whose p is 0 may be anything in the vocabulary.
        rest: ``(positions, sources)``, spread evenly over the whole vocabulary.
    """
    read = log_q.gather(-1, ids.flatten(1)).view_as(p)
    found = -(p * read).sum(-1)
    return found - rest * log_q.mean(-1, keepdim=True) if bool((rest > 0).any()) else found
