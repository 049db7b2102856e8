"""Averages in which every entry is weighed by how sure its model is of it (Matena and Raffel, arXiv:2111.09832).

    theta_j = sum_t c_t F_tj theta_tj / sum_t c_t F_tj,      F_t = diagonal of model t's Fisher information

The mean of normal approximations to the posteriors of the models. Entries that a model does not depend on have F = 0,
so F is raised to a floor; where losses of tasks differ in scale, each F_t is divided by its norm over the whole model.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def precision(fisher: Tensor, coefficient: float = 1.0, *, floor: float = 0.0, norm: float = 1.0) -> Tensor:
    """c max(F, floor) / norm, float32: the weight of each entry of one model.

    >>> import torch
    >>> precision(torch.tensor([0.0, 3.0]), 2.0, floor=0.5).tolist()
    [1.0, 6.0]
    """
    return fisher.float().clamp_min(floor) * (coefficient / norm)


def norm_of(fishers: Iterable[Tensor]) -> float:
    """The Euclidean norm of a Fisher diagonal over all tensors; 1 where it is zero everywhere.

    >>> import torch
    >>> norm_of([torch.tensor([3.0]), torch.tensor([[4.0]])])
    5.0
    """
    total = sum(float(fisher.double().square().sum()) for fisher in fishers)
    return total**0.5 if total > 0 else 1.0


def share_above(fishers: Iterable[Tensor], floor: float) -> float:
    """The share of the entries of all tensors that are above ``floor``.

    >>> import torch
    >>> share_above([torch.tensor([1.0, 3.0]), torch.tensor([[4.0, 0.0]])], 2.0)
    0.5
    """
    counts = [(int((fisher > floor).sum()), fisher.numel()) for fisher in fishers]
    return sum(above for above, _ in counts) / max(1, sum(size for _, size in counts))
