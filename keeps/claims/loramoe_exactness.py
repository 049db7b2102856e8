"""LoRAMoE's arithmetic against loops written from its formulas, and a router trained on the constraint alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from keeps.adapt.loramoe import loramoe_context, wrap_loramoe
from keeps.claims.base import Check
from keeps.models.experts import ExpertLinear
from keeps.models.language_model import LanguageModel
from keeps.models.logits import check_logits, largest_difference
from keeps.numerics.balance import mass_by_type

DELTAS = (0.0, 0.1, 0.3, 0.5, 1.0)
TYPES = (1, 1, 1, 0, 0, 0)
KINDS = (1, 0, 0, 1)
LENGTHS = (7, 3, 5, 1)  # of the samples, padded to the longest
STEPS = 300  # of the router that is trained on the constraint alone


def exactness_checks(model: LanguageModel) -> Iterator[Check]:
    """Layer, gate and constraint to 1e-5; the model untouched at the start; where the constraint leads."""
    layer, x, mask = _example()
    output, gates = _by_hand(layer, x)
    with loramoe_context(layer, KINDS, mask) as recorded, torch.no_grad():
        found = layer(x).double()
    yield _near("output of a layer, expert by expert", float((found - output).abs().max()))
    yield _near("gate of every token", float((recorded.stacked()[0][0].double() - gates).abs().max()))
    with torch.no_grad():
        apart = {delta: float(recorded.balance_loss(delta)) - _constraint(gates, mask, delta) for delta in DELTAS}
    yield _near(f"constraint for delta in {DELTAS}", max(map(abs, apart.values())))
    plain = _cv2([float(value) for value in _sums(gates, mask).flatten()])
    with torch.no_grad():
        yield _near("delta = 0 against plain balancing", abs(float(recorded.balance_loss(0.0)) - plain))
    yield _near("uniform gate against delta² N M / (N M - 1)", _uniform(0.3) - 0.3**2 * 24 / 23)
    before = check_logits(model.model, model.tokenizer)
    wrapped = wrap_loramoe(model.model)
    try:
        moved = largest_difference(before, check_logits(model.model, model.tokenizer))
    finally:
        wrapped.unwrap()
    yield Check("largest logit difference at the start", moved, "exactly 0", moved == 0)
    for delta in (0.1, 0.3, 0.5):
        matched = trained_mass(delta)
        wanted = (1 - delta) / 2
        yield Check(
            f"gate of a type's own experts, trained on the constraint alone, delta {delta:g}",
            matched,
            "within 0.02 of (1 - delta) / 2",
            abs(matched - wanted) <= 0.02,
            baseline=wanted,
        )
    told = trained_mass(0.3, direction="paper_text")
    yield Check(
        "the same with the signs of the paper's text", told, "within 0.02 of 0.65", abs(told - 0.65) <= 0.02, 0.65
    )


def trained_mass(delta: float, *, direction: str = "objective") -> float:
    """The mean gate of the matched half, of a router that saw two separable types and no other loss."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = _bank(16)
        centres = torch.randn(2, 16)
        optimiser = torch.optim.Adam([layer.router], lr=0.02)
        kinds = torch.tensor([1, 0] * 8)
        mass = torch.zeros(16, 6)
        for _ in range(STEPS):
            with loramoe_context(layer, kinds) as gates:
                layer(centres[kinds][:, None] + 0.3 * torch.randn(16, 8, 16))
            optimiser.zero_grad()
            gates.balance_loss(delta, direction=direction).backward()  # type: ignore[arg-type]
            optimiser.step()
            mass = gates.stacked()[0][0].detach().mean(1)  # (samples, experts)
    by_type = mass_by_type(mass, torch.tensor(TYPES))
    return float(by_type[torch.arange(16), kinds].mean())


def _bank(width: int) -> ExpertLinear:
    wrapped = wrap_loramoe(nn.Sequential(nn.Linear(width, 5)), ("0",), expert_types=TYPES, dropout=0.0)
    return wrapped.layers["0"]


def _example() -> tuple[ExpertLinear, Tensor, Tensor]:
    """A layer with random experts, inputs ``(4, 7, 12)``, and their mask."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = _bank(12)
        nn.init.normal_(layer.B)
        x = torch.randn(4, 7, 12)
    return layer, x, (torch.arange(7) < torch.tensor(LENGTHS)[:, None]).long()


def _by_hand(layer: ExpertLinear, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output and gates in float64, one token and one expert at a time."""
    a, b, router = (value.detach().double() for value in (layer.A, layer.B, layer.router))
    output = x.double() @ layer.weight.detach().double().T
    if layer.bias is not None:
        output = output + layer.bias.detach().double()
    gates = torch.zeros(*x.shape[:2], len(TYPES), dtype=torch.float64)
    for row in range(x.shape[0]):
        for column in range(x.shape[1]):
            token = x[row, column].double()
            weights = [math.exp(float(direction @ token)) for direction in router]
            for n, weight in enumerate(weights):
                gates[row, column, n] = weight / sum(weights)
                output[row, column] += 8 * gates[row, column, n] * (b[n] @ (a[n] @ token))  # alpha / r = 32 / 4
    return output, gates


def _sums(gates: Tensor, mask: Tensor) -> Tensor:
    """Q: ``(experts, samples)``."""
    return torch.stack([gates[m, : int(mask[m].sum())].sum(0) for m in range(len(mask))], dim=1)


def _constraint(gates: Tensor, mask: Tensor, delta: float) -> float:
    q = _sums(gates, mask)
    z = [
        (1 + delta if expert == kind else 1 - delta) * float(q[n, m])
        for n, expert in enumerate(TYPES)
        for m, kind in enumerate(KINDS)
    ]
    return _cv2(z)


def _uniform(delta: float) -> float:
    layer = _bank(12)
    with torch.no_grad():
        layer.router.zero_()
        with loramoe_context(layer, KINDS) as gates:
            layer(torch.ones(4, 7, 12))
        return float(gates.balance_loss(delta))


def _cv2(values: list[float]) -> float:
    return statistics.variance(values) / statistics.mean(values) ** 2


def _near(name: str, apart: float) -> Check:
    return Check(f"{name}: largest difference", abs(apart), "below 1e-5", abs(apart) < 1e-5)
