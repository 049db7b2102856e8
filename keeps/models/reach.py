"""How far a low-rank change reaches into given texts: what it adds to each layer's output, against its bound."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from keeps.models.adapters import Factors
from keeps.models.covariances import Batch
from keeps.models.nullspaces import NullSpaces
from keeps.models.projection import evaluating, hidden_states
from keeps.models.targets import find_targets
from keeps.numerics.nullspace import change_bound

TOLERANCE = 1e-3  # of a measured energy in float32, relative, before it counts as above its bound
CALIBRATED, HELD_OUT = "calibrated", "held_out"
Rows = dict[str, dict[str, float]]  # layer name -> figures


@dataclass(frozen=True)
class Reach:
    """How far a change moves the output of one layer, in the mean over the tokens of some texts.

    Attributes:
        change: E||s B A x||^2.
        output: E||W x||^2, to compare it with.
        outside: share of E||x||^2 that lies in the room.
    """

    change: float
    output: float
    outside: float


def reach(
    model: Any, batches: Iterable[Batch], factors: Factors, scaling: float, spaces: NullSpaces
) -> dict[str, Reach]:
    """What s B A does to the inputs that each layer of the untouched ``model`` has on some texts.

    Args:
        batches: mappings of ``input_ids`` and ``attention_mask``, ``(batch, time)``.
        factors: A ``(rank, in)`` and B ``(out, rank)`` by layer.
    """
    layers = find_targets(model, tuple(factors))
    sums = {name: torch.zeros(4, dtype=torch.float64) for name in layers}  # change, output, in the room, input
    tokens = dict.fromkeys(layers, 0)
    grams = {name: scaling**2 * (b.double().T @ b.double()) for name, (_, b) in factors.items()}
    mask = torch.ones(0)

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def measure(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            del module
            x, y = (_rows(value, mask).float() for value in (inputs[0], output))
            read = (x @ factors[name][0].to(x).T).double()  # A x, (tokens, rank)
            change = (read.T @ read * grams[name].to(read)).sum()
            squares = [value.double().square().sum() for value in (y, x @ spaces[name].basis.to(x), x)]
            sums[name] += torch.stack([change, *squares]).cpu()
            tokens[name] += len(x)

        return measure

    hooks = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        device = next(model.parameters()).device
        with evaluating(model), torch.no_grad():
            for batch in batches:
                mask = batch["attention_mask"].to(device)
                hidden_states(model, batch["input_ids"].to(device), mask)
    finally:
        for handle in hooks:
            handle.remove()
    return {
        name: Reach(float(change) / tokens[name], float(output) / tokens[name], float(room / whole))
        for name, (change, output, room, whole) in sums.items()
        if tokens[name]
    }


def bound_report(
    model: Any, texts: Mapping[str, Iterable[Batch]], factors: Factors, scaling: float, spaces: NullSpaces
) -> Rows:
    """By layer: the bound of E||s B A x||^2, and what it is on each of ``texts`` (their names end the keys)."""
    rows: Rows = {}
    for name, (a, b) in factors.items():
        space = spaces[name]
        device = space.basis.device
        bound = change_bound(a.to(device), b.to(device), scaling, space)
        rows[name] = {"bound": bound, "room": space.room, "residual": space.residual / space.total}
    for part, batches in texts.items():  # a part without texts gives no figures
        for name, moved in reach(model, batches, factors, scaling, spaces).items():
            rows[name] |= {f"change_{part}": moved.change, f"output_{part}": moved.output}
            rows[name][f"residual_{part}"] = moved.outside
    return rows


def summary(rows: Rows) -> dict[str, float]:
    """The report in a few numbers: root mean squares relative to a layer's output, as medians over the layers.

    ``bound``, ``change_calibrated`` and ``change_held_out`` are such medians; ``above_bound_calibrated`` and
    ``above_bound_held_out`` count layers whose change is above the bound; ``nearest_bound_...`` is the largest
    ratio of change to bound, both as root mean squares.
    """
    known = [row for row in rows.values() if row.get(f"output_{CALIBRATED}", 0) > 0]
    found: dict[str, float] = {}
    if known:
        found["bound"] = statistics.median(math.sqrt(row["bound"] / row[f"output_{CALIBRATED}"]) for row in known)
    for part in (CALIBRATED, HELD_OUT):
        moved = [
            (row[f"change_{part}"], row[f"output_{part}"], row["bound"])
            for row in rows.values()
            if row.get(f"output_{part}", 0) > 0
        ]
        if not moved:
            continue
        found[f"change_{part}"] = statistics.median(math.sqrt(change / output) for change, output, _ in moved)
        found[f"above_bound_{part}"] = sum(change > bound * (1 + TOLERANCE) for change, _, bound in moved)
        found[f"nearest_bound_{part}"] = max(math.sqrt(change / bound) if bound else 0.0 for change, _, bound in moved)
    return found


def in_words(measures: Mapping[str, float]) -> str:
    """The summary as a sentence for the user."""
    text = (
        f"outputs of a layer on the keep set (median over layers): bound {measures['bound']:.2%} of their size, "
        f"moved by {measures[f'change_{CALIBRATED}']:.2%}"
    )
    if f"change_{HELD_OUT}" in measures:
        text += (
            f", on held-out subjects by {measures[f'change_{HELD_OUT}']:.2%} "
            f"({measures[f'above_bound_{HELD_OUT}']:.0f} layers above the bound)"
        )
    return text


def _rows(x: Tensor, mask: Tensor) -> Tensor:
    """The vectors of real tokens, ``(tokens, features)``, whatever shape a layer sees them in."""
    flat = x.reshape(-1, x.shape[-1])
    return flat[mask.reshape(-1).bool()] if flat.shape[0] == mask.numel() else flat
