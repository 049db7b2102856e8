"""KaSA on linear regressions of which everything is known: what the penalties do, and when truncation helps.

Both use weights of 24 x 32, r = 4 and KaSA's own formulas. In the first, the target is W_world plus an update
of rank 3, so the adapter has one rank too many. In the second, the weight carries four small components
that the task does not have (planted noise), and there are fewer samples than inputs. All seeds of one
setting are trained side by side in stacked tensors; with Adam that is the same as one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from keeps.claims.base import Check, ClaimRun
from keeps.numerics.singular_form import orthogonal_penalty, singular_value_penalty
from keeps.numerics.statistics import Estimate, mean_interval
from keeps.numerics.truncation import removed_part

ROWS, COLUMNS, RANK = 24, 32, 4
UPDATE = (1.8, 2.1, 2.8)  # singular values of the update in the first experiment
SEEDS = 5
STEPS, RATE = 3000, 1e-2
BOTH, NEITHER, ORTHOGONAL, STRONG = (1e-4, 0.1), (0.0, 0.0), (0.0, 0.1), (1e-2, 0.1)  # (beta, gamma)
PLANTED_SEEDS = 10
PLANTED_STEPS = 1000
SAMPLES = 24  # fewer than inputs
RATES = (3e-3, 1e-2, 3e-2)  # of the second experiment, chosen on validation inputs
DEFAULTS = (1e-4, 1e-3)  # beta and gamma of KaSA's settings


@dataclass(frozen=True)
class Problems:
    """One pretrained weight a seed, and the task to adapt it to.

    Attributes:
        weight, target: W and the weight that made the outputs, ``(seeds, out, in)``.
        inputs, outputs: ``(seeds, samples, in)`` and ``(seeds, samples, out)``.
        validation: inputs for choosing, ``(seeds, 256, in)``.
    """

    weight: Tensor
    target: Tensor
    inputs: Tensor
    outputs: Tensor
    validation: Tensor

    def test_loss(self, weight: Tensor) -> Tensor:
        """Mean squared error over all standard normal inputs, exactly: ||weight - target||_F^2 / out; ``(seeds,)``."""
        return (weight - self.target).square().sum((-2, -1)) / ROWS

    def validation_loss(self, weight: Tensor) -> Tensor:
        """The same on the validation inputs, ``(seeds,)``."""
        return (self.validation @ (weight - self.target).mT).square().mean((-2, -1))


@dataclass(frozen=True)
class Fits:
    """Where training ended: W_final and the parts of the adapter, each with a leading dimension of seeds."""

    weight: Tensor
    a: Tensor
    b: Tensor
    gate: Tensor


def fit(
    problems: Problems,
    penalties: tuple[float, float] | None,
    *,
    truncated: bool,
    rate: float = RATE,
    steps: int = STEPS,
) -> Fits:
    """Adapt the weights by Adam on all samples at once, s = 1; without ``penalties`` it is LoRA, which has no gate."""
    seeds = len(problems.weight)
    generator = torch.Generator().manual_seed(0)
    a = ((2 * torch.rand(seeds, RANK, COLUMNS, generator=generator) - 1) * COLUMNS**-0.5).requires_grad_()
    b = torch.zeros(seeds, ROWS, RANK, requires_grad=True)
    gate = torch.randn(seeds, RANK, generator=generator)
    gate = gate.requires_grad_() if penalties else torch.ones_like(gate)
    beta, gamma = penalties or (0.0, 0.0)
    base = without_smallest(problems.weight) if truncated else problems.weight
    optimiser = torch.optim.Adam([a, b, gate] if penalties else [a, b], lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        final = base + b @ (gate[..., None] * a)
        losses = (problems.inputs @ final.mT - problems.outputs).square().mean((-2, -1))
        if beta or gamma:
            losses = losses + beta * singular_value_penalty(gate) + gamma * orthogonal_penalty(a, b)
        losses.sum().backward()
        optimiser.step()
    final = base + b @ (gate[..., None] * a)
    return Fits(*(part.detach() for part in (final, a, b, gate)))


def without_smallest(weights: Tensor) -> Tensor:
    """W_world of each weight, ``(seeds, out, in)``."""
    return torch.stack([removed_part(weight, RANK, 1.0).residual(weight, 1.0) for weight in weights])


def regression_problems(seeds: int = SEEDS) -> Problems:
    """The target is W without its four smallest components plus an update with the singular values of UPDATE."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(seeds, ROWS, COLUMNS, generator=generator) / COLUMNS**0.5
    target = without_smallest(weight) + _with_values(UPDATE, seeds, generator)
    return _problems(weight, target, 256, 0.0, generator)


def planted_problems(seeds: int = PLANTED_SEEDS, *, noise_matters: bool = False) -> Problems:
    """W is a signal of rank 20 and four small components; the task is the signal, a small update, noisy outputs.

    With ``noise_matters`` the small components belong to the task as well.
    """
    generator = torch.Generator().manual_seed(2)
    values = [3.0 - 2.0 * n / (ROWS - RANK - 1) for n in range(ROWS - RANK)] + [0.9] * RANK
    weight = _with_values(values, seeds, generator)
    known = weight if noise_matters else without_smallest(weight)
    target = known + _with_values((1.5, 1.2, 1.0), seeds, generator)
    return _problems(weight, target, SAMPLES, 0.1, generator)


def regression_checks(run: ClaimRun) -> Iterator[Check]:
    """Card, point 3: the penalties make B and A orthonormal at no cost, and the rank can be read off the gates."""
    run.progress.message("regression of 32 inputs on 24 outputs, four settings of the penalties")
    problems = regression_problems()
    settings = {"both": BOTH, "neither": NEITHER, "gamma alone": ORTHOGONAL, "beta 1e-2": STRONG}
    found = {name: _measured(problems, fit(problems, pair, truncated=True)) for name, pair in settings.items()}
    run.tables["regression"] = {name: {key: part.tolist() for key, part in row.items()} for name, row in found.items()}
    both, neither, alone, strong = found.values()
    far, near = torch.maximum(neither["b"], neither["a"]), torch.maximum(both["b"], both["a"])
    name = "regression, distance of B and A from orthonormal"
    yield _check(f"{name}, both penalties", near, "below 0.05 in every seed", near < 0.05, far)
    yield _check(f"{name}, no penalty", far, "above 1 in every seed", far > 1)
    ratio = both["loss"] / both["variance"]
    less = "below 0.001 in every seed"
    yield _check("regression, task loss over the update's with both penalties", ratio, less, ratio < 1e-3)
    surplus = both["gates"][:, 0] / both["gates"][:, 1]
    yield _check("regression, surplus gate over the next", surplus, "below 0.1 in every seed", surplus < 0.1)
    error = ((both["gates"][:, 1:] - torch.tensor(UPDATE)) / torch.tensor(UPDATE)).abs().amax(1)
    yield _check("regression, gates against singular values, relative", error, "within 0.1 in every seed", error < 0.1)
    title = "regression, distance of B from orthonormal without beta"
    yield _check(title, alone["b"], "above 0.5 in every seed: both are needed", alone["b"] > 0.5, both["b"])
    smaller = (strong["gates"].sum(1) < both["gates"].sum(1)) & (strong["loss"] > both["loss"])
    wanted = "higher, and gates smaller, than with beta 1e-4 in every seed"
    yield _check("regression, task loss with beta 1e-2", strong["loss"], wanted, smaller, both["loss"])


def planted_checks(run: ClaimRun) -> Iterator[Check]:
    """Card, point 4: where the smallest components are noise, removing them is what beats LoRA on few samples."""
    variants: dict[str, dict[str, Any]] = {
        "lora": {"penalties": None, "truncated": False},
        "kasa": {"penalties": DEFAULTS, "truncated": True},
        "kasa, nothing removed": {"penalties": DEFAULTS, "truncated": False},
    }
    losses: dict[str, Tensor] = {}
    for kind, problems in (
        ("", planted_problems()),
        (", small components matter", planted_problems(noise_matters=True)),
    ):
        run.progress.message(f"planted noise{kind}: {len(variants)} variants at {len(RATES)} learning rates")
        for name, options in variants.items():
            fits = {rate: fit(problems, **options, rate=rate, steps=PLANTED_STEPS) for rate in RATES}
            best = min(RATES, key=lambda rate: float(problems.validation_loss(fits[rate].weight).mean()))
            losses[name + kind] = problems.test_loss(fits[best].weight)
            run.tables.setdefault("planted noise", {})[name + kind] = {
                "rate": best,
                "test": losses[name + kind].tolist(),
            }
    lora, kasa, whole = (losses[name] for name in variants)
    gain, lost = mean_interval((lora - kasa).tolist()), mean_interval((lora - whole).tolist())
    yield Check(
        "planted noise, 24 samples: test loss of KaSA",
        float(kasa.mean()),
        "below LoRA's with a 95 % interval of the paired difference above 0",
        (gain.low or 0.0) > 0,
        float(lora.mean()),
        _ends(gain),
        note=f"difference {gain.value:.4f} over {len(kasa)} seeds; where the small components matter to the task: "
        f"{float(losses['kasa, small components matter'].mean()):.3f} against "
        f"{float(losses['lora, small components matter'].mean()):.3f}",
    )
    yield Check(
        "planted noise: share of that advantage left when nothing is removed",
        lost.value / gain.value,
        "below a quarter",
        lost.value < 0.25 * gain.value,
        note=f"test loss {float(whole.mean()):.3f}",
    )


def _measured(problems: Problems, fits: Fits) -> dict[str, Tensor]:
    """Per seed: distances from orthonormal, |g| ascending, the loss of the task and that of making no update."""
    identity = torch.eye(RANK)
    return {
        "b": torch.linalg.matrix_norm(fits.b.mT @ fits.b - identity),
        "a": torch.linalg.matrix_norm(fits.a @ fits.a.mT - identity),
        "gates": fits.gate.abs().sort(dim=1).values,
        "loss": problems.test_loss(fits.weight),
        "variance": problems.test_loss(without_smallest(problems.weight)),
    }


def _problems(weight: Tensor, target: Tensor, samples: int, noise: float, generator: torch.Generator) -> Problems:
    shape = (len(weight), samples, COLUMNS)
    inputs = torch.randn(shape, generator=generator)
    outputs = inputs @ target.mT
    outputs = outputs + noise * torch.randn(outputs.shape, generator=generator)
    return Problems(weight, target, inputs, outputs, torch.randn(len(weight), 256, COLUMNS, generator=generator))


def _with_values(values: Sequence[float], seeds: int, generator: torch.Generator) -> Tensor:
    """Random matrices with these singular values, ``(seeds, out, in)``."""
    left = torch.linalg.qr(torch.randn(seeds, ROWS, len(values), generator=generator)).Q
    right = torch.linalg.qr(torch.randn(seeds, COLUMNS, len(values), generator=generator)).Q
    return (left * torch.tensor(values)) @ right.mT


def _check(name: str, values: Tensor, threshold: str, holds: Tensor, baseline: Tensor | None = None) -> Check:
    """One value a seed: the mean and its interval; it holds when it does in every seed."""
    mean = mean_interval(values.tolist())
    other = None if baseline is None else float(baseline.mean())
    return Check(name, mean.value, threshold, bool(holds.all()), other, _ends(mean))


def _ends(estimate: Estimate) -> tuple[float, float] | None:
    return None if estimate.low is None or estimate.high is None else (estimate.low, estimate.high)
