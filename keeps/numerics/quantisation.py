"""Block-wise quantisation of a weight to N bits, and LoftQ's start on it: tensors in, codes and factors out.

A weight is read row by row in blocks of b numbers. Each block is scaled to a fixed range, each number becomes
the nearest of 2^N levels, and what is stored are the level's index and the scale of the block:

    nf              x / max|x|                   NormalFloat levels     (QLoRA, arXiv:2305.14314, section 3)
    uniform         (x - min) / (max - min)      i / (2^N - 1)          (LoftQ, arXiv:2310.08659, section 2.1)
    uniform_absmax  x / max|x|                   2 i / (2^N - 1) - 1    (the levels of LoftQ's published code)

That code scales the last of these by mean(x) + 2.5 std(x) instead, which cuts off what is larger and, where the mean
is low enough, is zero or negative; here every number of a block lies between its outermost levels.

The levels of NormalFloat are quantiles of the standard normal distribution, divided by the largest of them: 2^(N-1)
at even steps of probability from 1/2 up to p, one less from 1 - p up to 1/2, and zero, so that each is used about
as often as the others where weights are normal and zero is exact. The paper leaves p open; its published NF4 values
have the mean of 1 - 1 / (2 (2^N - 1)) and 1 - 1 / (2 2^N), the probabilities in the middle of the last step of
either side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from keeps.errors import SettingsError, StatisticsError, nearest
from keeps.numerics.oriented import AdapterStart, check_rank, plain_start

Code = Literal["nf", "uniform", "uniform_absmax"]
Tail = Literal["own", "nf4"]
CODES = ("nf", "uniform", "uniform_absmax")
TAILS = ("own", "nf4")
BITS = (2, 3, 4, 8)
EXACT = 1e-6  # relative error below which quantising a weight in float32 is rounding
BLOCK = 64  # numbers that share a scale, as in QLoRA and LoftQ


@dataclass(frozen=True)
class Quantiser:
    """q_N: how a weight is quantised.

    Attributes:
        bits: N, one of :data:`BITS`.
        code: one of :data:`CODES`.
        block: numbers that share a scale.
        tail: the outermost probability of NormalFloat: that of its own number of bits, or of NF4's whatever
            N is, as in the published code of LoftQ.

    Raises:
        SettingsError: there is no such code, tail or number of bits, or a block is empty.

    >>> Quantiser(bits=2, code="uniform").levels().tolist()
    [0.0, 0.3333333432674408, 0.6666666865348816, 1.0]
    """

    bits: int = 4
    code: Code = "nf"
    block: int = BLOCK
    tail: Tail = "own"

    def __post_init__(self) -> None:
        for name, value, known in (("code", self.code, CODES), ("tail", self.tail, TAILS)):
            if value not in known:
                raise SettingsError(f'{name} is "{value}"', where="Quantiser", mend=nearest(value, known))
        if self.bits not in BITS:
            mend = f"choose one of {', '.join(map(str, BITS))}"
            raise SettingsError(f"a weight cannot be quantised to {self.bits} bits", where="Quantiser", mend=mend)
        if self.block < 1:
            raise SettingsError(f"a block of {self.block} numbers", where="Quantiser", mend="choose 1 or more")

    def levels(self) -> Tensor:
        """The 2^N levels of a scaled block, ascending float32, from -1 (``uniform``: 0) to 1."""
        if self.code == "nf":
            return normal_float(self.bits, 4 if self.tail == "nf4" else self.bits)
        lowest = 0.0 if self.code == "uniform" else -1.0
        return torch.linspace(lowest, 1.0, 2**self.bits, dtype=torch.float64).float()

    def __call__(self, weight: Tensor) -> Quantised:
        """``weight``, of any shape, quantised in float32.

        Raises:
            StatisticsError: the weight, or the range of a block, is not finite in float32.
        """
        flat = weight.detach().float().reshape(-1)
        missing = -len(flat) % self.block
        if missing:  # the last block repeats its last number, which changes neither its scale nor its lowest value
            flat = torch.cat([flat, flat[-1:].expand(missing)])
        blocks = flat.view(-1, self.block)
        if self.code == "uniform":
            shift = blocks.amin(1)
            scale = blocks.amax(1) - shift
        else:
            shift = torch.zeros(len(blocks), device=flat.device)
            scale = blocks.abs().amax(1)
        if not torch.isfinite(scale).all():  # NaN and infinity reach the scale of their block
            what = "the weight holds NaN, infinity, or numbers too large for float32"
            raise StatisticsError(what, mend="check the model's weights")
        scaled = (blocks - shift[:, None]) / torch.where(scale > 0, scale, 1.0)[:, None]
        levels = self.levels().to(flat.device)
        codes = torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2, out_int32=True).to(torch.uint8)
        return Quantised(codes, scale, shift)

    def dequantised(self, stored: Quantised, like: Tensor) -> Tensor:
        """The numbers that ``stored`` stands for, in the shape, dtype and device of ``like``."""
        stored = stored.to(like.device)
        levels = self.levels().to(like.device)
        blocks = levels[stored.codes.int()] * stored.scale[:, None] + stored.shift[:, None]
        return blocks.view(-1)[: like.numel()].view(like.shape).to(like.dtype)

    def rounded(self, weight: Tensor) -> Tensor:
        """What is left of ``weight`` after it was quantised and read again, of its shape, dtype and device."""
        return self.dequantised(self(weight), weight)

    def stored_bytes(self, count: int) -> int:
        """Bytes of ``count`` numbers: N bits each, and a float32 scale (``uniform``: and lowest value) a block.

        >>> Quantiser(bits=4).stored_bytes(128)
        72
        """
        numbers = 2 if self.code == "uniform" else 1
        return -(-count * self.bits // 8) + 4 * numbers * -(-count // self.block)


@dataclass(frozen=True)
class Quantised:
    """A quantised weight: ``codes`` uint8 (blocks, block), ``scale`` and ``shift`` float32 (blocks,)."""

    codes: Tensor
    scale: Tensor
    shift: Tensor

    def to(self, device: torch.device) -> Quantised:
        """The same on another device."""
        return Quantised(self.codes.to(device), self.scale.to(device), self.shift.to(device))


@dataclass(frozen=True)
class LoftQStart:
    """Where LoftQ starts: W is near Q + s B A.

    Attributes:
        quantised: Q.
        adapter: A (rank, in) and B (out, rank).
        error: ||W - Q - s B A||_F / ||W||_F.
        plain_error: ||W - q_N(W)||_F / ||W||_F, of the quantised weight alone.
    """

    quantised: Quantised
    adapter: AdapterStart
    error: float
    plain_error: float


def loftq_start(weight: Tensor, rank: int, scaling: float, quantiser: Quantiser, steps: int) -> LoftQStart:
    """Alternate T times between quantising and the best low-rank correction (LoftQ, algorithm 1), from B A = 0.

        Q_t = q_N(W - s B_(t-1) A_(t-1)),      s B_t A_t = SVD_r(W - Q_t)

    with s B A split evenly, as sqrt(S / s) on either side. The first step is never worse than quantising alone,
    since SVD_r is the nearest of rank r; later ones need not improve, and the last one is returned, as published.

    Args:
        weight: W, (out, in).
        scaling: s.
        steps: T, 1 or more.

    Raises:
        TargetError: the rank does not fit the layer.
        StatisticsError: the weight is not finite, or is made of its levels already.
    """
    check_rank(weight, rank)
    if steps < 1:
        raise SettingsError(f"{steps} alternations", where="loftq_start", mend="choose 1 or more")
    w = weight.detach().float()
    quantised, residual = _split(weight, w, quantiser)
    size, left = _norm(w), _norm(residual)
    if left <= EXACT * size:  # B = A = 0 would never learn
        mend = "start from the weights before they were quantised, or use plain lora"
        raise StatisticsError("quantising changes nothing in this weight, so there is nothing to correct", mend=mend)
    adapter = plain_start(residual, rank, scaling, largest=True)
    for _ in range(steps - 1):
        quantised, residual = _split(weight, w - _product(adapter, scaling, w), quantiser)
        adapter = plain_start(residual, rank, scaling, largest=True)
    return LoftQStart(quantised, adapter, _norm(residual - _product(adapter, scaling, w)) / size, left / size)


def _split(weight: Tensor, wanted: Tensor, quantiser: Quantiser) -> tuple[Quantised, Tensor]:
    """Q = q_N(wanted), and W - Q in float32, where Q is rounded to the dtype of W, as it is going to be used."""
    quantised = quantiser(wanted)
    return quantised, weight.detach().float() - quantiser.dequantised(quantised, weight).float()


def _norm(matrix: Tensor) -> float:
    """||M||_F, summed in float64: squares of small or large weights leave the range of float32."""
    return float(torch.linalg.vector_norm(matrix, dtype=torch.float64))


def _product(adapter: AdapterStart, scaling: float, like: Tensor) -> Tensor:
    """s B A, (out, in)."""
    return scaling * (adapter.b.to(like) @ adapter.a.to(like))


def normal_float(bits: int, tail_bits: int | None = None) -> Tensor:
    """The 2^N levels of N-bit NormalFloat, ascending float32, from -1 to 1 with an exact zero.

    >>> [round(level, 4) for level in normal_float(2).tolist()]
    [-1.0, 0.0, 0.4358, 1.0]

    Args:
        tail_bits: the number of bits that the outermost probability belongs to, by default N.
    """
    levels = 2 ** (bits if tail_bits is None else tail_bits)
    p = 1 - (1 / (levels - 1) + 1 / levels) / 4
    positive, negative = (_quantiles(p, count) for count in (2 ** (bits - 1), 2 ** (bits - 1) - 1))
    both = torch.cat([-negative.flip(0), torch.zeros(1, dtype=torch.float64), positive])
    return (both / positive[-1]).float()


def _quantiles(p: float, count: int) -> Tensor:
    """The quantiles at ``count`` even steps of probability from 1/2, which is left out, up to p."""
    return torch.special.ndtri(torch.linspace(0.5, p, count + 1, dtype=torch.float64)[1:])
