"""Next-token scores made of several models' or prompts' logits: tensors in, tensors out.

Logits of the same tokens, ``(rows, vocabulary)``, of a prompt with context (z_c) and without (z_p):

    CAD      z_c + a (z_c - z_p)                              Shi et al. 2023, arXiv:2305.14739
    CFG      z_p + g (z_c - z_p)                              Sanchez et al. 2023, arXiv:2306.17806
    CK-PLUG  where the context made the model less sure, a log p_p + (1 - a) log(p_c / p_p); else z_c
                                                              Bi et al. 2025, arXiv:2503.15888
    shift    M + sum_k a_k (M_k - M_0)                        Liu et al. 2024, arXiv:2401.08565 (proxy tuning)

Scores are known up to a constant a row, like logits. Computed in float32, or float64 of float64 logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Gate = Literal["cg", "code", "always"]
GATES: dict[str, float] = {"cg": 0.0, "code": 1.0, "always": math.inf}  # the offset of each


@dataclass(frozen=True)
class Adjusted:
    """What :func:`ck_adjust` found; all but ``scores`` are ``(rows,)``.

    Attributes:
        scores: ``(rows, vocabulary)``, -inf outside the candidate set.
        adjusted: bool, whether the gate opened; elsewhere the scores are those of the context.
        alpha: weight of the parameters, whether or not it was used.
        gain: the confidence gain H_p - H_c, in nats.
        h_context: entropy over the candidates with the context, in nats.
        h_param: the same without it.
    """

    scores: Tensor
    adjusted: Tensor
    alpha: Tensor
    gain: Tensor
    h_context: Tensor
    h_param: Tensor


def head_vocabulary(logits: Tensor, *, rho: float = 0.01, top: int = 10) -> Tensor:
    """The likely tokens of each row: p >= min(the ``top``-th largest p, ``rho`` times the largest); bool.

    >>> head_vocabulary(torch.tensor([[0.0, -1.0, -9.0]]), top=1).tolist()
    [[True, True, False]]
    """
    best = logits.topk(min(top, logits.shape[-1]), dim=-1).values
    threshold = torch.minimum(best[..., -1:], best[..., :1] + math.log(rho))
    return logits >= threshold


def entropy(logits: Tensor, kept: Tensor) -> Tensor:
    """Entropy in nats of the softmax over the tokens that are ``kept``, ``(rows,)``.

    >>> two = torch.tensor([[True, True, False]])
    >>> round(float(entropy(torch.zeros(1, 3), two)), 4)
    0.6931
    """
    # H = log Z - E[z], with the largest logit taken off: no logarithm of a small probability
    z = logits - logits.masked_fill(~kept, -math.inf).amax(-1, keepdim=True)
    weight = z.exp().masked_fill(~kept, 0.0)
    total = weight.sum(-1)
    spread = (weight * z.masked_fill(~kept, 0.0)).sum(-1) / total
    return (total.log() - spread).clamp_min(0.0)


def ck_adjust(
    z_context: Tensor,
    z_param: Tensor,
    alpha: float | Tensor | Literal["adaptive"],
    *,
    gate: Gate | float = "cg",
    rho: float = 0.01,
    top: int = 10,
    context_floor: bool = False,
    scale: Literal["paper", "code"] = "paper",
) -> Adjusted:
    """CK-PLUG: more or less of the model's own memory, where the context makes it less sure.

    The published combination is alpha log p_p + (1 - alpha)(z_c - z_p) = (1 - alpha) z_c + (2 alpha - 1) z_p up to a
    constant; in the second form alpha = 0.5 gives exactly half of z_c, whatever the rounding.

    Args:
        z_context: finite logits with the context, ``(rows, vocabulary)``.
        z_param: those without it.
        alpha: weight of the parameters in [0, 1], also one a row; ``"adaptive"`` is H_c / (H_c + H_p).
        gate: adjust where CG < offset * H_c: ``"cg"`` is 0 (the paper), ``"code"`` 1 (the released loop),
            ``"always"`` infinity, a number itself.
        rho: share of the best probability that makes a candidate, in (0, 1].
        top: candidates of each stream at least.
        context_floor: where alpha < 0.5 take only what is a candidate with the context, so that a token that is
            merely impossible without it is not blown up.
        scale: ``"code"`` multiplies adaptive scores by 2 / (1 + (n - 1) H_p / (H_c + H_p)), where n = 1 +
            |H_c - H_p| / (H_c + H_p), as the released loop does; the order of the tokens is the same, and samples
            are of another temperature.
    """
    wide = torch.promote_types(torch.promote_types(z_context.dtype, z_param.dtype), torch.float32)
    z_c, z_p = z_context.to(wide), z_param.to(wide)
    head = head_vocabulary(z_c, rho=rho, top=top)
    kept = head | head_vocabulary(z_p, rho=rho, top=top)
    h_c, h_p = entropy(z_c, kept), entropy(z_p, kept)
    gain = h_p - h_c
    offset = GATES[gate] if isinstance(gate, str) else gate
    adjusted = torch.ones_like(gain, dtype=torch.bool) if offset == math.inf else gain < offset * h_c
    both = h_c + h_p
    if isinstance(alpha, str):
        weight = torch.where(both > 0, h_c / both.clamp_min(torch.finfo(wide).tiny), 0.5)
    else:
        weight = torch.as_tensor(alpha, dtype=wide, device=z_c.device).expand_as(gain)
    factor = _released_scale(h_c, h_p) if scale == "code" and isinstance(alpha, str) else torch.ones_like(gain)
    of_context = torch.where(adjusted, factor * (1 - weight), 1.0)[:, None]
    of_param = torch.where(adjusted, factor * (2 * weight - 1), 0.0)[:, None]
    allowed = kept & (head | ~(adjusted & (weight < 0.5))[:, None]) if context_floor else kept
    scores = (of_context * z_c + of_param * z_p).masked_fill(~allowed, -math.inf)
    return Adjusted(scores, adjusted, weight, gain, h_c, h_p)


def _released_scale(h_c: Tensor, h_p: Tensor) -> Tensor:
    """2 (H_c + H_p) / (H_c + H_p n): what the released loop multiplies the published weights by."""
    both = (h_c + h_p).clamp_min(torch.finfo(h_c.dtype).tiny)
    n = 1 + (h_c - h_p).abs() / both
    return torch.where(h_c + h_p > 0, 2 * both / (h_c + h_p * n).clamp_min(torch.finfo(h_c.dtype).tiny), 2.0)


def cad(z_context: Tensor, z_param: Tensor, alpha: float = 0.5, *, plausible: float = 0.0) -> Tensor:
    """Context-aware decoding: (1 + alpha) z_c - alpha z_p; ``alpha`` = 0 is z_c.

    Args:
        plausible: tokens whose probability with the context is below this share of the best one get -inf, as in
            contrastive decoding (Li et al. 2023, arXiv:2210.15097); 0 keeps all, as published.
    """
    scores = z_context + alpha * (z_context - z_param)
    if not plausible:
        return scores
    return scores.masked_fill(~head_vocabulary(z_context, rho=plausible, top=1), -math.inf)


def classifier_free_guidance(z_conditional: Tensor, z_unconditional: Tensor, scale: float) -> Tensor:
    """z_u + scale (z_c - z_u): 0 ignores the condition, 1 is the condition alone, more is more than that."""
    return z_unconditional + scale * (z_conditional - z_unconditional)


def shifted(z_large: Tensor, z_base: Tensor, experts: Sequence[Tensor], alphas: Sequence[float]) -> Tensor:
    """M + sum_k alpha_k (M_k - M_0): small experts M_k and their base M_0 steer a large model M.

    Proxy tuning is one expert and alpha 1; DExperts is an expert with alpha, an anti-expert with -alpha.
    """
    total = z_large
    for expert, alpha in zip(experts, alphas, strict=True):
        total = total + alpha * (expert - z_base)
    return total
