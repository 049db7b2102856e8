"""CoDyRA where the truth is known: its operators, and a planted rank that the gates have to find.

A teacher differs from a random network of three tanh layers by a change of rank 2 in the middle one. A
gated adapter of rank 8 in every layer learns it; the layers that need nothing should end up empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from keeps.adapt.dynamic_rank import DynamicRankSettings, shrink
from keeps.claims.base import Check, ClaimRun
from keeps.models.gated import GatedDown
from keeps.numerics.proximal import gap_threshold, soft_threshold

WIDTH, LAYERS, PLANTED, RANK = 32, 3, 1, 8
TRUE_RANK = 2
SIZE = 0.3  # of the planted entries before their product: the untrained loss is then about 0.25, as on the card
STEPS, RATE, SAMPLES, BATCH = 800, 5e-3, 1024, 256
KAPPAS = (0.0, 5e-3, 1e-2, 2e-2, 5e-2)  # the card's; the last one is said to be too large to learn anything
TOO_LARGE = 5e-2
TABLE = {  # value -> soft, official, at a threshold of 0.1; the official one at 0.2 is a matter of rounding
    0.05: (0.0, 0.0),
    0.15: (0.05, 0.0),
    0.19: (0.09, 0.0),
    0.25: (0.15, 0.15),
    -0.3: (-0.2, -0.2),
}


@dataclass(frozen=True)
class Planted:
    """What one training came to."""

    ranks: tuple[int, ...]  # active, by layer
    loss: float
    loss_before: float
    gates: Tensor
    merge_difference: float  # largest, between the outputs with the adapter and with the merged weights


class Adapted(nn.Module):
    """tanh(W x + B (w * (A x))) with W fixed and the start of the card."""

    def __init__(self, weight: Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        down = nn.Linear(WIDTH, RANK, bias=False)
        with torch.no_grad():
            nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5), generator=generator)
        self.down = GatedDown(down, torch.randn(RANK, generator=generator))
        self.up = nn.Linear(RANK, WIDTH, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, width)`` to the same."""
        return torch.tanh(functional.linear(x, self.get_buffer("weight")) + self.up(self.down(x)))

    def merged(self) -> Tensor:
        """W + B diag(w) A."""
        return self.get_buffer("weight") + self.up.weight @ torch.diag(self.down.gate) @ self.down.weight


def planted_checks(run: ClaimRun, seeds: Sequence[int]) -> Iterator[Check]:
    """Operators, the identities at a threshold of zero and at the merge, then the planted rank."""
    yield _table_check()
    plain, unthresholded = train_planted(0.0, seeds[0], steps=100), train_planted(None, seeds[0], steps=100)
    same = torch.equal(plain.gates, unthresholded.gates) and plain.loss == unthresholded.loss
    yield Check("kappa_max = 0 against a gated LoRA that is never thresholded", float(same), "bit for bit (1)", same)
    found = {kappa: [train_planted(kappa, seed) for seed in seeds] for kappa in KAPPAS}
    run.tables["planted rank"] = {
        f"{kappa:g}": [{"ranks": item.ranks, "loss": item.loss, "before": item.loss_before} for item in items]
        for kappa, items in found.items()
    }
    worst = max(item.merge_difference for items in found.values() for item in items)
    yield Check("largest difference of outputs before and after the merge", worst, "below 1e-5", worst < 1e-5)
    yield from _rank_checks(found)


def train_planted(kappa_max: float | None, seed: int, steps: int = STEPS) -> Planted:
    """Train the gated adapters on the teacher; None leaves the thresholding out altogether."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(WIDTH, WIDTH, generator=generator) / math.sqrt(WIDTH) for _ in range(LAYERS)]
    change = torch.randn(WIDTH, TRUE_RANK, generator=generator) @ torch.randn(TRUE_RANK, WIDTH, generator=generator)
    inputs = torch.randn(SAMPLES, WIDTH, generator=generator)
    teacher = [weight + SIZE * change if layer == PLANTED else weight for layer, weight in enumerate(weights)]
    targets = _outputs(teacher, inputs)
    model = nn.Sequential(*(Adapted(weight, generator) for weight in weights))
    layers = [layer for layer in model if isinstance(layer, Adapted)]
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.9999), weight_decay=0.0)
    threshold = DynamicRankSettings(kappa_max=kappa_max or 0.0).thresholds(steps)
    before = float(functional.mse_loss(model(inputs).detach(), targets))
    for step in range(1, steps + 1):
        batch = torch.randint(0, SAMPLES, (BATCH,), generator=generator)
        optimiser.zero_grad()
        functional.mse_loss(model(inputs[batch]), targets[batch]).backward()
        optimiser.step()
        for layer in layers if kappa_max is not None else ():
            shrink(layer.down.gate, threshold(step), optimiser)
    with torch.no_grad():
        outputs = model(inputs)
        difference = (outputs - _outputs([layer.merged() for layer in layers], inputs)).abs().max()
    gates = torch.stack([layer.down.gate.detach() for layer in layers])
    ranks = tuple((gates != 0).sum(dim=1).tolist())
    return Planted(ranks, float(functional.mse_loss(outputs, targets)), before, gates, float(difference))


def _outputs(weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    for weight in weights:
        inputs = torch.tanh(functional.linear(inputs, weight))
    return inputs


def _table_check() -> Check:
    values = torch.tensor(list(TABLE), dtype=torch.float64)
    expected = torch.tensor(list(TABLE.values()), dtype=torch.float64).T
    found = torch.stack([soft_threshold(values, 0.1), gap_threshold(values, 0.1)])
    error = float((found - expected).abs().max())
    return Check("largest error of both operators on the card's table", error, "below 1e-12", error < 1e-12)


def _rank_checks(found: dict[float, list[Planted]]) -> Iterator[Check]:
    """The card's expectations, each in every seed."""
    totals = {kappa: sum(sum(item.ranks) for item in items) / len(items) for kappa, items in found.items()}
    full = all(rank == RANK for item in found[0.0] for rank in item.ranks)
    yield Check("active ranks at kappa_max 0", totals[0.0], f"all {LAYERS * RANK}", full)
    useful = [item for kappa, items in found.items() if 0 < kappa < TOO_LARGE for item in items]
    others = [[rank for layer, rank in enumerate(item.ranks) if layer != PLANTED] for item in useful]
    placed = all(item.ranks[PLANTED] > max(rest) for item, rest in zip(useful, others, strict=True))
    enough = min(item.ranks[PLANTED] for item in useful)
    yield Check(
        "least rank left in the planted layer",
        enough,
        f"at least {TRUE_RANK}, and more than in any other layer, at 5e-3, 1e-2 and 2e-2",
        placed and enough >= TRUE_RANK,
    )
    left = max(sum(item.ranks) - item.ranks[PLANTED] for item in found[2e-2])
    yield Check("ranks left in the other layers at kappa_max 2e-2", left, "none", left == 0)
    falls = all(
        sum(smaller.ranks) >= sum(larger.ranks)
        for one, other in pairwise(KAPPAS)
        for smaller, larger in zip(found[one], found[other], strict=True)
    )
    shown = ", ".join(f"{kappa:g}: {total:g}" for kappa, total in totals.items())
    yield Check("active ranks at kappa_max 2e-2", totals[2e-2], "never rise with kappa_max", falls, note=shown)
    share = max(item.loss / item.loss_before for item in useful)
    yield Check("largest share of the loss that is left at 5e-3, 1e-2 and 2e-2", share, "below 1 %", share < 0.01)
    lost = found[TOO_LARGE]
    nothing = all(sum(item.ranks) == 0 and item.loss > 0.9 * item.loss_before for item in lost)
    yield Check("active ranks at kappa_max 5e-2", totals[TOO_LARGE], "none, and nothing is learned", nothing)
