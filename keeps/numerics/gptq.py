"""Rounding a matrix to few bits so that what it does to known inputs changes least (GPTQ, arXiv:2210.17323).

    minimise ||W z - W' z||^2 over W' on the grid of every row,   H = E[z z^T]

column by column: each column is rounded, and the columns still to come take over its error, as far as the inputs
allow. The grid of a row (and of each group of its columns) is uniform and asymmetric with zero on it:

    scale = (max(0, w_max) - min(0, w_min)) / (2^b - 1),   zero = round(-min(0, w_min) / scale),
    w' = scale (clip(round(w / scale) + zero, 0, 2^b - 1) - zero)

Grids are those of the matrix as it came, so that columns may be taken in any order without storing one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BITS = (1, 2, 3, 4, 8)
DAMPING = 0.01  # of the mean of H's diagonal, as published


@dataclass(frozen=True)
class Grid:
    """Levels of each row and group of columns: ``scale`` float16 and ``zero`` uint8, ``(rows, groups)``."""

    scale: Tensor
    zero: Tensor
    bits: int
    group: int

    @classmethod
    def of(cls, w: Tensor, bits: int, group: int) -> Grid:
        """The grid of ``w`` ``(rows, columns)``; a group that is all zero gets the range from -1 to 1.

        Raises:
            ValueError: the bits are none of :data:`BITS`, or the group is empty.
        """
        if bits not in BITS or group < 1:
            raise ValueError(f"{bits} bits in groups of {group} are no grid")
        low, high = [], []
        for part in w.float().split(group, dim=1):
            low.append(part.amin(1).clamp(max=0))
            high.append(part.amax(1).clamp(min=0))
        lowest, highest = torch.stack(low, 1), torch.stack(high, 1)
        nothing = (lowest == 0) & (highest == 0)
        lowest, highest = torch.where(nothing, -1.0, lowest), torch.where(nothing, 1.0, highest)
        scale = ((highest - lowest) / (2**bits - 1)).half()
        scale = torch.where(scale == 0, torch.finfo(torch.float16).smallest_normal, scale)  # it is divided by
        zero = (-lowest / scale.float()).round().clamp(0, 2**bits - 1)
        return cls(scale, zero.to(torch.uint8), bits, group)

    def codes(self, column: Tensor, index: int) -> Tensor:
        """Codes ``(rows,)`` float32 of values ``(rows,)`` that stand in column ``index``."""
        scale, zero = self.scale[:, index // self.group].float(), self.zero[:, index // self.group].float()
        return ((column / scale).round() + zero).clamp(0, 2**self.bits - 1)

    def values(self, codes: Tensor) -> Tensor:
        """What codes ``(rows, columns)`` stand for, float32."""
        columns = codes.shape[1]
        scale, zero = (x.float().repeat_interleave(self.group, dim=1)[:, :columns] for x in (self.scale, self.zero))
        return scale * (codes.float() - zero)


def nearest(w: Tensor, bits: int, group: int) -> tuple[Tensor, Grid]:
    """Codes uint8 ``(rows, columns)`` of the nearest levels, whatever the inputs, and their grid."""
    grid = Grid.of(w, bits, group)
    codes = torch.stack([grid.codes(w[:, index].float(), index) for index in range(w.shape[1])], 1)
    return codes.to(torch.uint8), grid


def gptq(
    w: Tensor, second_moment: Tensor, bits: int, group: int = 128, *, by_size: bool = True, damping: float = DAMPING
) -> tuple[Tensor, Grid]:
    """Codes uint8 ``(rows, columns)`` and their grid.

    Args:
        w: ``(rows, columns)``.
        second_moment: H up to a factor, ``(columns, columns)``. Columns whose inputs are always zero become zero.
        by_size: take columns with large inputs first.

    Raises:
        ValueError: the shapes do not fit, or H is not finite.
    """
    columns = w.shape[1]
    h = second_moment.double().clone()
    if h.shape != (columns, columns) or not bool(h.isfinite().all()):
        raise ValueError(f"a second moment {tuple(h.shape)} for {columns} columns, or one that is not finite")
    work = w.double().clone()
    dead = h.diagonal() <= 0
    h[dead, dead] = 1.0
    work[:, dead] = 0.0
    grid = Grid.of(work, bits, group)
    h += damping * h.diagonal().mean() * torch.eye(columns, dtype=h.dtype, device=h.device)
    order = h.diagonal().argsort(descending=True, stable=True) if by_size else torch.arange(columns, device=h.device)
    work = work[:, order]
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h[order][:, order])), upper=True)
    codes = torch.empty(work.shape, dtype=torch.uint8, device=w.device)
    for place, index in enumerate(order.tolist()):
        column = grid.codes(work[:, place].float(), index)
        codes[:, index] = column.to(torch.uint8)
        group_of = index // group
        rounded = grid.scale[:, group_of].double() * (column.double() - grid.zero[:, group_of].double())
        error = (work[:, place] - rounded) / upper[place, place]
        work[:, place + 1 :] -= error[:, None] * upper[place, place + 1 :]
    return codes, grid


def packed(codes: Tensor, bits: int) -> Tensor:
    """Codes below 2^bits as bytes, uint8 ``(ceil(n bits / 8),)``, the first code in the highest bits.

    >>> packed(torch.tensor([1, 2, 3, 0], dtype=torch.uint8), 2).tolist()
    [108]
    """
    flat = codes.cpu().reshape(-1, 1).numpy()
    singles = np.unpackbits(flat, axis=1)[:, 8 - bits :]
    return torch.from_numpy(np.packbits(singles.reshape(-1)))


def unpacked(data: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """Undo :func:`packed`.

    Raises:
        ValueError: there are too few bytes, or too many, for the shape.
    """
    count = int(np.prod(shape))
    if data.numel() != -(-count * bits // 8):
        raise ValueError(f"{data.numel()} bytes for {count} codes of {bits} bits")
    singles = np.unpackbits(data.cpu().numpy())[: count * bits].reshape(count, bits)
    padded = np.zeros((count, 8), dtype=np.uint8)
    padded[:, 8 - bits :] = singles
    return torch.from_numpy(np.packbits(padded, axis=1).reshape(shape))
