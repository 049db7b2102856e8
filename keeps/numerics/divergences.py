"""Divergences between the next-token distributions of two models, in nats, at any number of positions."""

from __future__ import annotations

import torch
from torch import Tensor


def kl_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) at each position, in float32 or, of float64 logits, in float64.

    The gradient flows where the arguments have one.

    Its gradient by the student's logits is softmax(student) - softmax(teacher).

    >>> kl_divergence(torch.zeros(1, 2), torch.tensor([[0.0, 0.0]])).tolist()
    [0.0]

    Args:
        teacher: logits, ``(..., vocabulary)``.
        student: logits of the same shape.

    Returns:
        ``(...)``, at least 0 up to rounding.
    """
    wide = torch.promote_types(torch.promote_types(teacher.dtype, student.dtype), torch.float32)
    wanted, found = teacher.to(wide).log_softmax(-1), student.to(wide).log_softmax(-1)
    return (wanted.exp() * (wanted - found)).sum(-1)
