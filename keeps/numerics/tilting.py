"""The exponential family P_a ~ P exp(a d), along which a distribution is tilted: how far, and where it is far enough.

With A(a) = log E_P exp(a d), and E_P[d] taken off d first (which changes no P_a, and no exponent overflows early):

    f(a) = KL(P_a || P) = a E_a[d] - A,   f' = a Var_a d;        r(a) = KL(P || P_a) = A,   r' = E_a[d]

Both are 0 at a = 0 and rise strictly wherever d is not constant on P. f stays below -log P(where d is largest), so that
a size may be out of reach: then the answer is the end of the range.

``log_p`` is ``(rows, tokens)``, ``d`` ``(lines, rows, tokens)`` (any finite number where P is 0), results
``(lines, rows)``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CELLS = 20  # of the scan that brackets a minimum: the grid of logit fusion on its published range
ROUNDS = 60  # of Newton's method at most; bisection alone gets a float64 there in 53
RENORMALISED = 4  # steps of the scan after which weights are brought back to a sum of 1


class Moments(NamedTuple):
    """f, r, and the mean, variance and third central moment of d under P_a."""

    f: Tensor
    r: Tensor
    mean: Tensor
    variance: Tensor
    third: Tensor


def centred(log_p: Tensor, d: Tensor) -> Tensor:
    """d - E_P[d], and 0 where P is 0."""
    p = log_p.exp()
    return torch.where(p > 0, d - (p * d).sum(-1, keepdim=True), 0.0)


def moments(log_p: Tensor, d: Tensor, alpha: Tensor) -> Moments:
    """At ``alpha`` ``(lines, rows)``; ``d`` is centred."""
    logits = log_p + alpha[..., None] * d
    log_mean = logits.logsumexp(-1)  # A
    weight = (logits - log_mean[..., None]).exp()
    mean = (weight * d).sum(-1)
    apart = d - mean[..., None]
    spread = weight * apart.square()
    return Moments(alpha * mean - log_mean, log_mean, mean, spread.sum(-1), (spread * apart).sum(-1))


def forward_root(log_p: Tensor, d: Tensor, size: Tensor, end: float) -> Tensor:
    """The alpha in [0, end] where KL(P_a || P) is ``size`` ``(rows,)``, at least 0; ``end`` where it stays below.

    Newton's method on sqrt(2 f), nearly a straight line through 0, kept inside a shrinking bracket. Where d is constant
    the answer is 0.
    """
    d = centred(log_p, d)
    size = size.clamp_min(0).expand(d.shape[:-1])
    last = torch.full_like(size, end)
    short = moments(log_p, d, last).f < size
    low, high = torch.zeros_like(size), last
    alpha = torch.where(size > 0, high / 2, 0.0)
    tolerance = end * torch.finfo(d.dtype).eps ** 0.5  # of a last step: Newton's error is about its square
    for _ in range(ROUNDS):
        at = moments(log_p, d, alpha)
        below = at.f < size
        low, high = torch.where(below, alpha, low), torch.where(below, high, alpha)
        g = (2 * at.f.clamp_min(0)).sqrt()
        new = alpha - (g - (2 * size).sqrt()) * g / (alpha * at.variance)  # g' = a Var / g
        new = torch.where(_trusted(new, alpha, low, high, tolerance), new, (low + high) / 2)
        new = torch.where(short | (size <= 0), alpha, new)
        moved = (new - alpha).abs().amax()
        alpha = new
        if moved <= tolerance:
            break
    return torch.where(_constant(log_p, d) | (size <= 0), 0.0, torch.where(short, end, alpha))


def symmetric_minimum(log_p: Tensor, d: Tensor, forward: Tensor, backward: Tensor, end: float) -> Tensor:
    """The alpha in [0, end] of least phi = (f - forward)^2 + (r - backward)^2, sizes ``(rows,)``.

    phi may have several minima, so the line is scanned at :data:`CELLS` + 1 points and the best one's surroundings are
    searched for the zero of phi'. The result is never worse than any of these points. 0 where d is constant.
    """
    d = centred(log_p, d)
    f, r = scan(log_p, d, end)
    value = (f - forward).square() + (r - backward).square()
    best, place = value.min(0)
    width = end / CELLS
    start = place.to(d.dtype) * width
    low, high = (start - width).clamp_min(0), (start + width).clamp_max(end)
    alpha = start
    tolerance = end * torch.finfo(d.dtype).eps ** 0.5  # of a last step: Newton's error is about its square
    for _ in range(ROUNDS):
        at = moments(log_p, d, alpha)
        rise_f, rise_r = alpha * at.variance, at.mean
        slope = (at.f - forward) * rise_f + (at.r - backward) * rise_r  # phi' / 2
        bend = rise_f.square() + rise_r.square()
        bend = bend + (at.f - forward) * (at.variance + alpha * at.third) + (at.r - backward) * at.variance
        falling = slope <= 0  # at 0, where the slope vanishes, phi falls unless both sizes are 0
        low, high = torch.where(falling, alpha, low), torch.where(falling, high, alpha)
        new = alpha - slope / bend
        new = torch.where((bend > 0) & _trusted(new, alpha, low, high, tolerance), new, (low + high) / 2)
        moved = (new - alpha).abs().amax()
        alpha = new
        if moved <= tolerance:
            break
    at = moments(log_p, d, alpha)
    polished = (at.f - forward).square() + (at.r - backward).square()
    return torch.where(_constant(log_p, d), 0.0, torch.where(polished <= best, alpha, start))


def scan(log_p: Tensor, d: Tensor, end: float, cells: int = CELLS) -> tuple[Tensor, Tensor]:
    """f and r at 0, end / cells, ..., end: ``(cells + 1, lines, rows)`` each; ``d`` is centred.

    exp(a d) at equal distances is a power, so that a step costs a product in place of an exponential.
    """
    width = end / cells
    p = log_p.exp()
    top = d.masked_fill(p == 0, -torch.inf).amax(-1, keepdim=True)
    factor = (width * (d - top)).clamp_max(0).exp()  # at most 1: nothing overflows
    weight = p.expand_as(d).clone()
    taken = torch.zeros_like(top.squeeze(-1))  # log of what the weights were divided by
    found_f, found_r = [torch.zeros_like(taken)], [torch.zeros_like(taken)]
    for number in range(1, cells + 1):
        weight *= factor
        total = weight.sum(-1)
        mean = torch.linalg.vecdot(weight, d) / total
        log_mean = taken + total.log() + number * width * top.squeeze(-1)
        found_f.append(number * width * mean - log_mean)
        found_r.append(log_mean)
        if number % RENORMALISED == 0:
            weight /= total[..., None]
            taken = taken + total.log()
    return torch.stack(found_f), torch.stack(found_r)


def _trusted(new: Tensor, alpha: Tensor, low: Tensor, high: Tensor, tolerance: float) -> Tensor:
    """Whether a step stays in the bracket, or is so small that rounding alone put ``alpha`` at its edge."""
    return ((new > low) & (new < high)) | ((new - alpha).abs() <= tolerance)


def _constant(log_p: Tensor, d: Tensor) -> Tensor:
    """Whether d, centred, is the same wherever P is not 0."""
    outside = log_p == -torch.inf
    return d.masked_fill(outside, -torch.inf).amax(-1) <= d.masked_fill(outside, torch.inf).amin(-1)
