"""A difference of weights made small, by what the module does (GraftLLM, arXiv:2505.18502); tensors in, tensors out.

    sparse      the fraction alpha of the largest entries                          (embeddings, head)
    low_rank    U_r diag(s_r) V_r^T, with r by energy, in 16 bits                   (attention)
    banded      the same, its triples cut into bands of 8, 4, 2, ... bits           (feed-forward)
    exact       the fine-tuned values themselves                                    (norms, biases)

Of each band V^T is rounded first, against the inputs x of the layer, then U, against what the *rounded* V^T makes of
x, so that the second corrects the first. s is kept apart from both: in U it would mix directions of very different
size under one scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from keeps.numerics.gptq import Grid, gptq, nearest, packed, unpacked
from keeps.numerics.twin import leading

Packed = dict[str, Tensor]  # part -> tensor, as they lie in the file
Band = tuple[int, int]  # triples, bits
Rounding = Literal["gptq", "nearest"]


def sparse(delta: Tensor, share: float) -> Packed:
    """The ``share`` of the entries that are largest: ``index`` int32 and ``values`` float16; at least one.

    Raises:
        ValueError: the share is outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share is above 0 and at most 1, not {share}")
    flat = delta.float().flatten()
    index = flat.abs().topk(max(1, round(share * flat.numel()))).indices.sort().values
    return {"index": index.to(torch.int32), "values": flat[index].half()}


def low_rank(delta: Tensor, *, energy: float = 1.0, rank: int | None = None) -> Packed:
    """``u``, ``s``, ``v`` in float16; as few as hold the energy, and at most ``rank``."""
    part = leading(delta, energy=energy) if rank is None else leading(delta, rank=rank)
    return {"u": part.u.half(), "s": part.s.half(), "v": part.v.half()}


def clipped(bands: Sequence[Band], most: int) -> list[Band]:
    """Bands of no more than ``most`` triples together; what is above is cut off.

    >>> clipped([(20, 8), (180, 4), (1200, 2)], 192)
    [(20, 8), (172, 4)]
    """
    found, left = [], most
    for count, bits in bands:
        if min(count, left) > 0:
            found.append((min(count, left), bits))
        left -= min(count, left)
    return found


def banded(
    delta: Tensor,
    bands: Sequence[Band],
    second_moment: Tensor | None,
    *,
    group: int = 128,
    rounding: Rounding = "gptq",
) -> Packed:
    """The leading triples in bands; of band i ``i.v.codes``, ``i.v.scale``, ``i.v.zero``, the same of u, and ``s``.

    Args:
        delta: ``(out, in)``.
        bands: ``(triples, bits)`` from the largest triples on; 16 bits are float16. Clipped to min(out, in).
        second_moment: of the layer's inputs, ``(in, in)``; None only with ``rounding="nearest"``.

    Raises:
        ValueError: there is no band or no second moment, or bits that there are not.
    """
    chosen = clipped(bands, min(delta.shape))
    if not chosen or (rounding == "gptq" and second_moment is None):
        raise ValueError("there is no band, or no second moment to round with")
    part = leading(delta, rank=sum(count for count, _ in chosen))
    found: Packed = {"s": part.s.half()}
    start = 0
    for number, (count, bits) in enumerate(clipped(chosen, part.rank)):
        piece = slice(start, start + count)
        start += count
        right, left = part.v[:, piece].T.contiguous(), part.u[:, piece].contiguous()
        if bits == 16:
            found |= {f"{number}.v.half": right.half(), f"{number}.u.half": left.half()}
            continue
        if rounding == "nearest" or second_moment is None:
            found |= _named(f"{number}.v", *nearest(right, bits, group))
            found |= _named(f"{number}.u", *nearest(left, bits, group))
            continue
        codes, grid = gptq(right, second_moment, bits, group)
        found |= _named(f"{number}.v", codes, grid)
        seen = found["s"][piece].double()[:, None] * grid.values(codes).double()  # what z is made by: z = s V^T x
        moment = seen @ second_moment.double() @ seen.T
        found |= _named(f"{number}.u", *gptq(left, moment, bits, group))
    return found


def decoded(kind: str, parts: Packed, shape: tuple[int, ...], bands: Sequence[Band] = (), group: int = 128) -> Tensor:
    """The difference that ``parts`` stand for, float32 of ``shape``.

    Raises:
        ValueError, KeyError: parts are missing or do not fit the shape.
    """
    if kind == "sparse":
        flat = torch.zeros(int(torch.Size(shape).numel()))
        index = parts["index"].long()
        if len(index) != len(parts["values"]) or (
            len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(flat)
        ):
            raise ValueError("indices outside of the tensor")
        flat[index] = parts["values"].float()
        return flat.reshape(shape)
    if kind == "low_rank":
        if not parts["u"].shape[1:] == parts["v"].shape[1:] == parts["s"].shape:  # a single column would be spread
            raise ValueError("factors of different ranks")
        found = (parts["u"].float() * parts["s"].float()) @ parts["v"].float().T
    elif kind == "banded":
        found, start = torch.zeros(shape), 0
        s = parts["s"].float()
        for number, (count, bits) in enumerate(clipped(bands, len(s))):
            right = _values(parts, f"{number}.v", bits, (count, shape[1]), group)
            left = _values(parts, f"{number}.u", bits, (shape[0], count), group)
            found += (left * s[start : start + count]) @ right
            start += count
    else:
        raise ValueError(f'no kind "{kind}"')
    if tuple(found.shape) != tuple(shape):
        raise ValueError(f"parts of {tuple(found.shape)} for {tuple(shape)}")
    return found


def _named(name: str, codes: Tensor, grid: Grid) -> Packed:
    return {f"{name}.codes": packed(codes, grid.bits), f"{name}.scale": grid.scale, f"{name}.zero": grid.zero}


def _values(parts: Packed, name: str, bits: int, shape: tuple[int, int], group: int) -> Tensor:
    if bits == 16:
        return parts[f"{name}.half"].float()
    grid = Grid(parts[f"{name}.scale"], parts[f"{name}.zero"], bits, group)
    if tuple(grid.scale.shape) != (shape[0], -(-shape[1] // group)) or grid.scale.shape != grid.zero.shape:
        raise ValueError(f"scales of {tuple(grid.scale.shape)} for {shape} in groups of {group}")
    return grid.values(unpacked(parts[f"{name}.codes"], bits, shape))
