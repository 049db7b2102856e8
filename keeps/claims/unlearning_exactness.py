"""What is exact in unlearning: limits of the losses, tests of equal samples, vectors and adapters that cancel."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from keeps.claims.base import Check
from keeps.numerics.forgetting_losses import gradient_ascent, npo, simnpo
from keeps.numerics.task_vectors import negated, negated_factors
from keeps.numerics.two_samples import kolmogorov_smirnov
from keeps.numerics.unlearning_scores import harmonic_mean

BETA = 0.1
TOKENS, VOCABULARY = 12, 500


def exactness_checks() -> Iterator[Check]:
    """Card, point 1, and the identity of point 4; in float64 but for the adapter's."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(TOKENS, VOCABULARY, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    reference = _summed(logits, targets).detach()
    expected = 2 / BETA * math.log(2)
    value = float(npo(_summed(logits, targets), reference, beta=BETA).detach())
    off = abs(value / expected - 1)
    yield Check("NPO at the reference against (2/beta) ln 2, relative", off, "below 1e-6", off < 1e-6, expected)
    [ours] = torch.autograd.grad(npo(_summed(logits, targets), reference, beta=BETA).sum(), logits)
    [ascent] = torch.autograd.grad(gradient_ascent(logits, targets).sum(), logits)
    off = float((ours - ascent).norm() / ascent.norm())
    yield Check("NPO's gradient at the reference against that of log pi, relative", off, "below 1e-4", off < 1e-4)
    certain = float(simnpo(torch.zeros(1), torch.ones(1), beta=4.5))
    off = abs(certain / (2 / 4.5 * math.log(2)) - 1)
    yield Check("SimNPO of a certain answer against (2/beta) ln 2, relative", off, "below 1e-6", off < 1e-6)
    sample = torch.rand(20, generator=generator).tolist()
    p = kolmogorov_smirnov(sample, sample).p
    yield Check("p of a Kolmogorov-Smirnov test of equal samples", p, "1", p == 1)
    weight = torch.randn(64, 48, generator=generator)
    same = torch.equal(negated(weight, weight.clone(), 1.0), weight)
    yield Check("bits changed by subtracting a zero vector", 0.0 if same else 1.0, "none", same)
    a, b = torch.randn(4, 48, generator=generator), torch.randn(64, 4, generator=generator)
    a2, b2 = negated_factors(a, b, factor="both")
    same = torch.equal(b2 @ a2, b @ a)
    yield Check("bits changed by negating both factors of an adapter", 0.0 if same else 1.0, "none", same)
    mean = harmonic_mean([0.9, 0.8, 0.0])
    yield Check("harmonic mean with a component of 0", mean, "0", mean == 0)


def _summed(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, targets[:, None]).sum()[None]
