"""What several fine-tunes share and what each has alone: tensors in, tensors out (Twin-Merging, arXiv:2406.15479).

    theta_s = theta_0 + lambda sum_t (theta_t - theta_0)         the shared expert
    v_t     = SVD_r(theta_t - theta_s)                           what the merge destroyed for task t

The residual is against theta_s, not theta_0. Signs of singular vectors are arbitrary: compare products only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from keeps.numerics.oriented import singular_part

LARGE = 2048  # smallest side from which a sketch is much cheaper than a decomposition: seconds against minutes
FEW = 0.25  # share of the rank up to which it is
OVERSAMPLING = 16
ITERATIONS = 5


@dataclass(frozen=True)
class LowRank:
    """U diag(s) V^T: ``u (rows, r)``, ``s (r,)`` descending, ``v (columns, r)``; (rows + columns + 1) r numbers."""

    u: Tensor
    s: Tensor
    v: Tensor

    @property
    def rank(self) -> int:
        """r."""
        return len(self.s)

    @property
    def product(self) -> Tensor:
        """The matrix itself, ``(rows, columns)``."""
        return (self.u * self.s) @ self.v.T


def shared_expert(base: Tensor, deltas: Sequence[Tensor], scale: float) -> Tensor:
    """theta_0 + scale sum_t tau_t in the dtype of ``base``, added in float32; the very bits of ``base`` at scale 0.

    >>> shared_expert(torch.tensor([1.0]), [torch.tensor([2.0]), torch.tensor([4.0])], 0.5).tolist()
    [4.0]
    """
    if scale == 0 or not deltas:
        return base.clone()
    total = torch.zeros_like(base, dtype=torch.float32)
    for delta in deltas:
        total += delta.to(total)
    return torch.where(total == 0, base, (base.float() + scale * total).to(base.dtype))


def leading(matrix: Tensor, *, rank: int | None = None, density: float = 1.0, energy: float | None = None) -> LowRank:
    """The largest singular triples of a matrix, float32, without those that are zero.

    Args:
        matrix: ``(rows, columns)``.
        rank: how many at most; None: by ``density``.
        density: share of min(rows, columns), rounded down and one at least (as the official code counts).
        energy: instead of both, as few as hold this share of the squared Frobenius norm.

    The decomposition is exact, but for a few triples of a matrix whose sides are both above 2,048: there they are
    found by :func:`sketched`.

    Raises:
        ValueError: a rank below 1, or a share outside (0, 1].
    """
    if (rank is not None and rank < 1) or not 0 < density <= 1 or (energy is not None and not 0 < energy <= 1):
        raise ValueError(f"rank {rank}, density {density} or energy {energy} is out of range")
    most = min(matrix.shape)
    wanted = most if energy is not None else min(most, max(1, int(density * most)) if rank is None else rank)
    if not bool(matrix.any()):
        return LowRank(matrix.new_zeros(matrix.shape[0], 0), matrix.new_zeros(0), matrix.new_zeros(matrix.shape[1], 0))
    few = energy is None and most >= LARGE and wanted <= FEW * most
    u, s, v = sketched(matrix, wanted) if few else singular_part(matrix, wanted, largest=True)
    # the entries are float32: what is smaller than this is their rounding, and no direction
    kept = int((s > torch.finfo(torch.float32).eps * s[0]).sum())
    if energy is not None:
        kept = min(kept, energy_rank(s, energy))
    return LowRank(u[:, :kept].float(), s[:kept].float(), v[:, :kept].float())


def sketched(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """About the ``rank`` largest triples, by a random sketch and power iterations (Halko et al., arXiv:0909.4061).

    In float32, from a fixed seed. With so many iterations the error is within a per cent of the best one even where
    singular values fall slowly, and the cost is that of a few products. The directions themselves are then mixed
    with those that come next, so a sketch serves where what is lost counts, and not which directions are kept.

    Returns:
        U ``(rows, rank)``, s ``(rank,)`` descending, V ``(columns, rank)``.
    """
    m = matrix.float()
    chance = torch.Generator().manual_seed(0)
    sketch = torch.randn(m.shape[1], min(rank + OVERSAMPLING, *m.shape), generator=chance).to(m)
    found = torch.linalg.qr(m @ sketch).Q
    for _ in range(ITERATIONS):
        found = torch.linalg.qr(m @ torch.linalg.qr(m.T @ found).Q).Q
    u, s, vt = torch.linalg.svd(found.T @ m, full_matrices=False)
    return (found @ u)[:, :rank], s[:rank], vt[:rank].T


def energy_rank(values: Tensor, energy: float) -> int:
    """The smallest r with sum_(i <= r) s_i^2 >= energy * sum_i s_i^2, for values in descending order.

    >>> energy_rank(torch.tensor([3.0, 1.0, 1.0]), 0.8), energy_rank(torch.tensor([3.0, 1.0, 1.0]), 1.0)
    (1, 3)
    """
    squares = values.double().square().cumsum(0)
    short = squares < energy * squares[-1] * (1 - 1e-12)  # rounding of the sum is no energy
    return min(len(values), int(short.sum()) + 1)


def on_grid(weights: Tensor, steps: int) -> Tensor:
    """Rows that sum to 1, rounded to multiples of 1 / steps so that they still do (largest remainders); 0: as is.

    >>> on_grid(torch.tensor([[0.34, 0.33, 0.33]]), 2).tolist()
    [[0.5, 0.5, 0.0]]
    """
    if steps == 0:
        return weights
    scaled = weights.double() * steps
    whole = (scaled + 1e-9).floor()
    missing = steps - whole.sum(1)
    order = (scaled - whole).sort(dim=1, descending=True, stable=True).indices.argsort(1)
    return ((whole + (order < missing[:, None])) / steps).to(weights.dtype)
