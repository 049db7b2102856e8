"""How evenly a router spreads data over experts, and the constraint that lets it be uneven by type.

LoRAMoE (arXiv:2312.09979), section 3.3. Q holds how much of each sample went to each expert; the
coefficients I weigh its entries by whether the types of expert and sample agree; the loss is the spread
of Z = I * Q over all its entries. Where Z is constant the loss is zero, so an entry with the larger
coefficient ends with the *smaller* share of the gate.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

Measure = Literal["cv2", "dispersion"]
Direction = Literal["objective", "paper_text"]
MEASURES: tuple[str, ...] = get_args(Measure)
DIRECTIONS: tuple[str, ...] = get_args(Direction)
EPSILON = 1e-10  # added to the squared mean, as the official code does


def importance(gates: Tensor, mask: Tensor, *, per_token: bool = False) -> Tensor:
    """Q, ``(..., experts, samples)``: how much of each sample's tokens went to each expert.

    Q_nm = sum_j gate_n(x_mj) over the tokens j of sample m, as the paper has it. Long samples weigh more
    then, and the spread of Q is also one of lengths; ``per_token`` divides each column by its tokens.

    Args:
        gates: ``(..., samples, time, experts)``, each sums to 1 over the experts.
        mask: ``(samples, time)``, 1 on tokens and 0 on padding.
    """
    weights = mask.to(gates.dtype)
    if per_token:
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(1)
    return torch.einsum("...mtn,mt->...nm", gates, weights)


def coefficients(
    expert_types: Tensor, sample_types: Tensor, delta: float, direction: Direction = "objective"
) -> Tensor:
    """I, ``(experts, samples)`` in float32: 1 + delta where the types agree, 1 - delta elsewhere.

    Args:
        expert_types: ``(experts,)``, int64; ``sample_types``: ``(samples,)``, int64.
        delta: how uneven the gate may be, in [0, 1]; 0 asks for equal use of all experts.
        direction: ``"paper_text"`` turns the signs round, so that experts get *more* of their own type, as
            the paper's wording has it; its formula (``"objective"``) gives them less.
    """
    agree = (expert_types[:, None] == sample_types[None, :]).float()
    signed = delta * (2 * agree - 1)
    return 1 + signed if direction == "objective" else 1 - signed


def spread(z: Tensor, measure: Measure = "cv2") -> Tensor:
    """Spread of ``z`` over its last two dimensions, with the unbiased variance.

    ``"cv2"`` is variance / mean², the official code, which does not depend on the scale of z;
    ``"dispersion"`` is variance / mean, as the paper prints it, which grows with the tokens of a sample.
    """
    variance, mean = z.var((-2, -1)), z.mean((-2, -1))
    return variance / (mean**2 + EPSILON) if measure == "cv2" else variance / (mean + EPSILON)


def balance_loss(
    q: Tensor,
    expert_types: Tensor,
    sample_types: Tensor,
    delta: float,
    *,
    measure: Measure = "cv2",
    direction: Direction = "objective",
) -> Tensor:
    """The localised balancing constraint of each layer: the spread of Z = I * Q.

    A uniform gate gives delta² N M / (N M - 1) where half of the pairs agree.

    Args:
        q: ``(..., experts, samples)``, from :func:`importance`.

    Returns:
        ``(...)``, float32.
    """
    return spread(coefficients(expert_types, sample_types, delta, direction) * q, measure)


def balanced_mass(expert_types: Tensor, kind: int, delta: float, direction: Direction = "objective") -> Tensor:
    """The gate at which the constraint is zero for a sample of type ``kind``: ``(experts,)``, sums to 1.

    With two halves the matched one gets (1 - delta) / 2, or (1 + delta) / 2 for ``"paper_text"``.

    >>> [round(mass, 3) for mass in balanced_mass(torch.tensor([1, 1, 0, 0]), 1, 0.2).tolist()]
    [0.2, 0.2, 0.3, 0.3]
    """
    inverse = 1 / coefficients(expert_types, torch.tensor([kind]), min(delta, 1 - 1e-6), direction)[:, 0]
    return inverse / inverse.sum()


def load_variation(load: Tensor) -> Tensor:
    """Coefficient of variation of the experts' load ``(..., experts)``: 0 when equal, root of N when one has all."""
    return load.std(-1) / load.mean(-1).clamp_min(EPSILON)


def load_entropy(load: Tensor) -> Tensor:
    """Entropy of the load ``(..., experts)`` as a share of its maximum, in [0, 1]."""
    share = load / load.sum(-1, keepdim=True).clamp_min(EPSILON)
    return torch.special.entr(share).sum(-1) / math.log(load.shape[-1])


def mass_by_type(mass: Tensor, expert_types: Tensor) -> Tensor:
    """The mass ``(..., experts)`` summed over the experts of each type: ``(..., types)``."""
    types = int(expert_types.max()) + 1
    return torch.zeros(*mass.shape[:-1], types).index_add(-1, expert_types.cpu(), mass.float().cpu())
