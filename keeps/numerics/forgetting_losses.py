"""What is minimised to make a model forget: losses of tokens and of whole answers, on tensors, in nats.

Token losses take logits ``(tokens, vocabulary)`` and the tokens ``(tokens,)`` to be forgotten and give ``(tokens,)``;
whoever calls them takes the mean over the answer tokens alone. Answer losses take one number an answer and give
``(answers,)``. With l = log p(y_t | y_<t, x) and log pi(y | x) the sum of l over the answer:

    GA       l                                       gradient ascent on -l
    WGA      p^beta l                                p without a gradient
    SatImp   p^beta1 (1 - p)^beta2 l                 likewise
    UNDIAL   H(softmax(z_teacher - beta e_y), model)
    CE-U     H(softmax(z with z_y = -inf), model)    the target is the model's own, without a gradient
    NPO      -(2/beta) log sigma(-beta log(pi/pi_ref))
    SimNPO   -(2/beta) log sigma(beta (-log pi / |y| - delta))
    EUL      -alpha KL(teacher || student) + gamma l
    PDU      (max_v z_v - mean_v z_v)^2

The preference of a refusal over an answer is :func:`keeps.numerics.distillation.dpo_loss`.

Sources:
    Jang et al. 2023, arXiv:2210.01504 (GA). Zhang et al. 2024, arXiv:2404.05868 (NPO). Fan et al. 2024,
    arXiv:2410.07163 (SimNPO). Dong et al. 2024, arXiv:2402.10052 (UNDIAL). Wang et al. 2025, arXiv:2502.19301 (WGA).
    Yang et al. 2025, arXiv:2505.11953 (SatImp). Yang 2025, arXiv:2503.01224 (CE-U). Li et al. 2024,
    arXiv:2403.03218 (RMU). Eldan and Russinovich 2023, arXiv:2310.02238 (generic predictions). Chen and Yang
    2023, arXiv:2310.20150 (EUL). Entesari et al. 2025, arXiv:2506.05314 (PDU).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from keeps.numerics.divergences import kl_divergence


def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """log p of each target, (tokens,), in float32 or, of float64 logits, in float64."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return -functional.cross_entropy(logits.to(wide), targets, reduction="none")


def gradient_ascent(logits: Tensor, targets: Tensor, *, max_loss: float | None = None) -> Tensor:
    """l of each token, to be minimised; nothing pushes a token whose loss has reached ``max_loss`` any further.

    >>> gradient_ascent(torch.zeros(1, 4), torch.tensor([2])).exp().tolist()
    [0.25]
    """
    found = token_logprobs(logits, targets)
    return found if max_loss is None else found.clamp_min(-max_loss)


def weighted_ascent(logits: Tensor, targets: Tensor, *, beta: float = 1.0) -> Tensor:
    """WGA: p^beta l. A token that is forgotten already pushes no more; beta = 0 is gradient ascent."""
    found = token_logprobs(logits, targets)
    return (beta * found).exp().detach() * found


def saturation_importance(logits: Tensor, targets: Tensor, *, beta1: float = 5.0, beta2: float = 1.0) -> Tensor:
    """SatImp: p^beta1 (1 - p)^beta2 l, which leaves out both what is forgotten and what is certain beyond doubt."""
    found = token_logprobs(logits, targets)
    p = found.exp().detach()
    return p**beta1 * (1 - p).clamp_min(0) ** beta2 * found


def undial(logits: Tensor, targets: Tensor, teacher: Tensor, *, beta: float = 10.0) -> Tensor:
    """Cross-entropy to what the unchanged model would say with the true token's logit lowered by ``beta``.

    Args:
        teacher: logits of the unchanged model, as ``logits``; no gradient is taken.
    """
    wanted = teacher.detach().to(torch.promote_types(teacher.dtype, torch.float32)).clone()
    wanted.scatter_add_(-1, targets[:, None], torch.full_like(wanted[:, :1], -beta))
    return soft_cross_entropy(logits, wanted)


def cross_entropy_unlearning(logits: Tensor, targets: Tensor) -> Tensor:
    """CE-U: cross-entropy to the model's own distribution over all tokens but the true one."""
    wanted = logits.detach().to(torch.promote_types(logits.dtype, torch.float32)).clone()
    wanted.scatter_(-1, targets[:, None], -torch.inf)
    return soft_cross_entropy(logits, wanted)


def soft_cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """H(softmax(wanted), softmax(logits)) at each position; a wanted logit may be -inf."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return -(wanted.to(wide).softmax(-1) * logits.to(wide).log_softmax(-1)).sum(-1)


def npo(logprobs: Tensor, reference: Tensor, *, beta: float = 0.1) -> Tensor:
    """NPO: -(2/beta) log sigma(-beta (log pi - log pi_ref)) of each answer.

    Its gradient is that of log pi times 2 pi^beta / (pi^beta + pi_ref^beta): 1 at the reference, and less the more is
    forgotten. beta to 0 is gradient ascent.

    >>> round(float(npo(torch.tensor([-3.0]), torch.tensor([-3.0]), beta=2.0)), 4)
    0.6931

    Args:
        logprobs: (answers,), log pi(y | x), *summed* over the tokens of the answer.
        reference: (answers,), the same of the unchanged model.
    """
    return -(2 / beta) * functional.logsigmoid(-beta * (logprobs - reference))


def simnpo(logprobs: Tensor, lengths: Tensor, *, beta: float = 4.5, delta: float = 0.0) -> Tensor:
    """SimNPO: -(2/beta) log sigma(beta (-log pi / |y| - delta)): no reference, and a mean where NPO has a sum.

    Args:
        logprobs: (answers,), summed over the tokens of each answer.
        lengths: (answers,), their numbers of tokens.
    """
    return -(2 / beta) * functional.logsigmoid(beta * (-logprobs / lengths - delta))


def misdirection(states: Tensor, direction: Tensor, coefficient: float) -> Tensor:
    """RMU's forget term ||h - c u||^2 / d at each position.

    Args:
        states: (positions, width), hidden states behind one layer.
        direction: (width,), the unit vector u.
    """
    return (states.float() - coefficient * direction.float()).square().mean(-1)


def displacement(states: Tensor, reference: Tensor) -> Tensor:
    """RMU's retain term ||h - h_ref||^2 / d at each position, of (positions, width) each."""
    return (states.float() - reference.float()).square().mean(-1)


def random_direction(width: int, seed: int) -> Tensor:
    """RMU's u: uniform in [0, 1)^width, brought to length 1; float32 on the CPU, by ``seed`` alone."""
    drawn = torch.rand(width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn / torch.linalg.vector_norm(drawn)).float()


def generic_logits(base: Tensor, reinforced: Tensor, *, strength: float = 5.0) -> Tensor:
    """v_generic = v_base - strength ReLU(v_reinforced - v_base): what a model would say that never read the texts.

    Every token that more reading made likelier is pushed down in proportion; the others stay as they were.

    >>> generic_logits(torch.tensor([1.0, 1.0]), torch.tensor([2.0, 0.0]), strength=3.0).tolist()
    [-2.0, 1.0]
    """
    wide = torch.promote_types(base.dtype, torch.float32)
    return base.to(wide) - strength * functional.relu(reinforced.to(wide) - base.to(wide))


def teacher_student_forgetting(
    logits: Tensor,
    targets: Tensor,
    teacher: Tensor,
    *,
    alpha: float = 1.0,
    gamma: float = 0.2,
    max_loss: float | None = None,
) -> Tensor:
    """EUL on the forget set: -alpha KL(teacher || student) + gamma l of each token.

    Args:
        teacher: logits of the unchanged model, as ``logits``; no gradient is taken.
        max_loss: neither the divergence nor -l of a token that has reached it is pushed any further.
    """
    divergence = kl_divergence(teacher.detach(), logits)
    bounded = divergence if max_loss is None else divergence.clamp_max(max_loss)
    return gamma * gradient_ascent(logits, targets, max_loss=max_loss) - alpha * bounded


def flatness(logits: Tensor) -> Tensor:
    """PDU's forget loss of each token: (max logit - mean logit)^2, which is 0 where all tokens are equally likely.

    >>> flatness(torch.tensor([[3.0, 0.0, 0.0]])).tolist()
    [4.0]

    Args:
        logits: ``(..., vocabulary)``.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (wide.amax(-1) - wide.mean(-1)).square()


def next_multiplier(multiplier: float, constraint: float, step: float) -> float:
    """PDU's dual step: max(0, multiplier + step * constraint), where the constraint holds at 0 and below.

    >>> next_multiplier(1.0, -3.0, 0.5), next_multiplier(1.0, 3.0, 0.5)
    (0.0, 2.5)
    """
    return max(0.0, multiplier + step * constraint)
