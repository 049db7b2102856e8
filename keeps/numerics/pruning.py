"""Which entries of an update are dropped: the largest ones, a number known in advance. Tensors in, masks out.

    W <- W + D * keep,    keep = 0 on the floor(k / 100 * numel(D)) entries of D that are largest in magnitude

Ignore-k (Sun et al., ICLR 2025, arXiv:2504.09522) keeps the complement of what TIES-merging keeps (Yadav et al.,
arXiv:2306.01708): the large entries of an update carry most of the leak into other answers, and little of what was
learned. Of equal magnitudes those of lower index count as larger, so that a mask is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from keeps.errors import SettingsError, nearest

SCOPES = ("tensor", "global")


def dropped_count(entries: int, percent: float) -> int:
    """floor(percent / 100 * entries), of the decimal number as it is written.

    >>> dropped_count(1000, 8), dropped_count(1000, 1.1), dropped_count(7, 50)
    (80, 11, 3)

    Raises:
        SettingsError: ``percent`` is outside [0, 100].
    """
    if not 0 <= percent <= 100:
        raise SettingsError(f"{percent:g} per cent of an update", where="pruning", mend="choose from 0 to 100")
    return int(Fraction(str(float(percent))) * entries // 100)


def largest(update: Tensor, count: int) -> Tensor:
    """True on exactly ``count`` entries of ``update``, those of largest magnitude; ties go by flat index.

    Args:
        update: any shape and floating dtype, without NaN.

    Returns:
        bool, of the shape of ``update``.
    """
    flat = update.detach().abs().flatten()
    if count <= 0 or count >= flat.numel():
        return torch.full_like(update, count > 0, dtype=torch.bool)
    threshold = torch.kthvalue(flat, flat.numel() - count + 1).values
    chosen = flat > threshold
    ties = (flat == threshold).nonzero().flatten()  # in rising order
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen.view(update.shape)


def keep_mask(update: Tensor, percent: float, *, keep_top: bool = False) -> Tensor:
    """Which entries of ``update`` stay when the largest ``percent`` are dropped; the others with ``keep_top``.

    0 keeps all and 100 none. Both masks of one percentage are complements.

    Returns:
        bool, of the shape of ``update``, with numel - floor(percent / 100 * numel) true entries.
    """
    top = largest(update, dropped_count(update.numel(), percent))
    return top if keep_top else ~top


def band_mask(update: Tensor, start: float, end: float) -> Tensor:
    """True on the entries whose magnitude ranks from ``start`` to ``end`` per cent, counted from the largest.

    Bands that meet share no entry, and those from 0 to 100 hold all.

    Raises:
        SettingsError: ``start`` lies behind ``end``, or one is outside [0, 100].
    """
    if start > end:
        mend = "give the lower percentage first"
        raise SettingsError(f"a band from {start:g} to {end:g} per cent", where="pruning", mend=mend)
    return keep_mask(update, end, keep_top=True) & keep_mask(update, start)


def keep_masks(
    updates: Sequence[Tensor], percent: float, *, scope: str = "tensor", keep_top: bool = False
) -> list[Tensor]:
    """:func:`keep_mask` of several tensors, ranked one by one (``"tensor"``) or all together (``"global"``).

    Together the tensors count as one, in the order given.

    Raises:
        SettingsError: there is no such scope, or ``percent`` is outside [0, 100].
    """
    if scope not in SCOPES:
        raise SettingsError(f'there is no scope "{scope}"', where="pruning", mend=nearest(scope, SCOPES))
    if scope == "tensor" or not updates:
        return [keep_mask(update, percent, keep_top=keep_top) for update in updates]
    flat = torch.cat([update.detach().flatten().to(updates[0].device, torch.float32) for update in updates])
    parts = keep_mask(flat, percent, keep_top=keep_top).split([update.numel() for update in updates])
    return [part.view(update.shape).to(update.device) for part, update in zip(parts, updates, strict=True)]


def pruned(start: Tensor, end: Tensor, keep: Tensor) -> Tensor:
    """``end`` where ``keep``, ``start`` elsewhere: the bits of one of both, never a sum that rounds."""
    return torch.where(keep, end, start)
