"""What several passages say together: token probabilities and text probabilities, summed over passages.

With p(z|x) the weight of passage z for the question x, of m passages:

    RAG-Token      p(y|x) = prod_i sum_z p(z|x) p(y_i | x, z, y_<i)
    RAG-Sequence   p(y|x) = sum_z p(z|x) prod_i p(y_i | x, z, y_<i)

Lewis et al. 2020, arXiv:2005.11401, section 2.1. Everything is in natural logarithms and probabilities are added by
``logsumexp``: a mean of logarithms would be another model (a product of experts).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

PRIORS = ("scores", "ranks", "uniform")


def passage_log_weights(scores: Sequence[float], prior: str = "scores", temperature: float = 1.0) -> list[float]:
    """ln p(z|x) of passages, best first.

    Args:
        scores: what the retriever gave, higher is better.
        prior: ``"scores"`` is the softmax of ``scores / temperature`` (the paper), ``"ranks"`` is proportional to
            ``rank ** (-1 / temperature)`` with ranks from 1, ``"uniform"`` is 1 / m.
        temperature: above 0; larger is flatter.

    >>> [round(math.exp(w), 3) for w in passage_log_weights([2.0, 1.0], "ranks")]
    [0.667, 0.333]
    """
    if prior not in PRIORS or not temperature > 0:
        raise ValueError(f"prior {prior!r} with temperature {temperature} gives no weights")
    if not scores:
        return []
    raw = {
        "scores": [score / temperature for score in scores],
        "ranks": [-math.log(rank) / temperature for rank in range(1, len(scores) + 1)],
        "uniform": [0.0] * len(scores),
    }[prior]
    return torch.tensor(raw, dtype=torch.float64).log_softmax(0).tolist()


def log_joint(log_weights: Tensor, logits: Tensor) -> Tensor:
    """ln p(z|x) p(y_i|x, z, y_<i) for every token.

    Args:
        log_weights: ``(passages, rows)``.
        logits: ``(passages, rows, vocabulary)``.

    Returns:
        ``(passages, rows, vocabulary)``; its ``logsumexp`` over passages is RAG-Token's ln p(y_i | x, y_<i).
    """
    return log_weights[..., None] + logits.log_softmax(-1)


def token_marginal(log_weights: Tensor, logprobs: Tensor) -> Tensor:
    """RAG-Token's ln p(y|x).

    Args:
        log_weights: ``(passages,)``.
        logprobs: ``(passages, tokens)``, of each token of y behind each passage.

    >>> weights, p = torch.tensor([0.5, 0.5]).log(), torch.tensor([[0.8, 0.1], [0.2, 0.9]]).log()
    >>> round(float(token_marginal(weights, p).exp()), 6), round(float(sequence_marginal(weights, p).exp()), 6)
    (0.25, 0.13)
    """
    return (log_weights[:, None] + logprobs).logsumexp(0).sum()


def sequence_marginal(log_weights: Tensor, logprobs: Tensor) -> Tensor:
    """RAG-Sequence's ln p(y|x); arguments as of :func:`token_marginal`."""
    return (log_weights + logprobs.sum(-1)).logsumexp(0)


def responsibilities(joint: Tensor) -> Tensor:
    """p(z | x, y): how much of what was said each passage answers for.

    Args:
        joint: ln p(z|x) p(y|x, z), passages in the first dimension.

    Returns:
        Of the same shape; sums to 1 over passages.
    """
    return joint.softmax(0)
