"""Weights under the pen: keys are read, updates written, and the weights come back as they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from keeps.models.adapters import Factors, copy_into
from keeps.models.edit_files import joined
from keeps.models.edit_rows import REWRITE, Row, subject_inputs
from keeps.models.language_model import LanguageModel
from keeps.models.locate import ModuleRef, mlp_outputs

TEXTS, HALVES = "texts", "halves"  # what a key is the mean of


@dataclass
class Writer:
    """Weights that are being edited: each W is W_0 + sum of B A, formed in float64 from the untouched W_0."""

    refs: Mapping[int, ModuleRef]
    originals: dict[str, Tensor] = field(default_factory=dict)
    parts: dict[int, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    changes: dict[int, Tensor] = field(default_factory=dict)  # layer -> sum of B A, (out, in) float64

    def write(self, layer: int, a: Tensor, b: Tensor) -> tuple[int, int]:
        """Add B A ``(out, n) (n, in)`` to a layer's weight; returns the ranks that it takes in the stored factors."""
        ref = self.refs[layer]
        own = self.parts.setdefault(layer, [])
        first = sum(part.shape[0] for part, _ in own)
        own.append((a.cpu().float(), b.cpu().float()))  # as they will be stored
        change = (own[-1][1].double() @ own[-1][0].double()).to(ref.weight.device)
        self.changes[layer] = self.changes[layer] + change if layer in self.changes else change
        self._fill(layer)
        return first, first + a.shape[0]

    def _fill(self, layer: int) -> None:
        """Put W_0 and what was written into the model."""
        ref, change = self.refs[layer], self.changes.get(layer)
        with torch.no_grad():
            if change is None:
                ref.weight.copy_(self.originals[ref.name])
            else:
                total = change.T if ref.transposed else change
                ref.weight.copy_(self.originals[ref.name].double() + total)

    def restore(self) -> None:
        """Every weight is what it was, bit by bit; what was written is still known."""
        copy_into({ref.name: ref.weight for ref in self.refs.values()}, self.originals)

    def mark(self) -> tuple[dict[int, int], dict[int, Tensor]]:
        """Where the writing stands, for :meth:`back_to`."""
        return {layer: len(own) for layer, own in self.parts.items()}, dict(self.changes)

    def back_to(self, mark: tuple[dict[int, int], dict[int, Tensor]]) -> None:
        """Take back what was written since ``mark``: the weights are what they were then, bit by bit."""
        counts, changes = mark
        self.parts = {layer: own[: counts[layer]] for layer, own in self.parts.items() if layer in counts}
        self.changes = dict(changes)
        for layer in self.refs:
            self._fill(layer)

    def original(self, layer: int) -> Tensor:
        """W_0 of a layer, ``(out, in)`` float64."""
        ref = self.refs[layer]
        weight = self.originals[ref.name].double()
        return weight.T if ref.transposed else weight

    def clear(self) -> None:
        """Begin anew, as if nothing had been written."""
        self.restore()
        self.parts.clear()
        self.changes.clear()

    def factors(self) -> Factors:
        """What was written, by layer name."""
        return {self.refs[layer].name: joined(parts) for layer, parts in self.parts.items()}

    def norms(self) -> dict[str, float]:
        """||dW|| / ||W||, Frobenius, by layer name."""
        return {
            self.refs[layer].name: float(change.norm() / self.originals[self.refs[layer].name].double().norm())
            for layer, change in self.changes.items()
        }


@contextmanager
def writing(model: LanguageModel, layers: Sequence[int]) -> Iterator[Writer]:
    """A writer for ``layers``; however the block ends, every weight is what it was, bit by bit."""
    refs = mlp_outputs(model.model)
    chosen = {layer: refs[layer] for layer in layers}
    writer = Writer(chosen, {ref.name: ref.weight.detach().clone() for ref in chosen.values()})
    try:
        yield writer
    finally:
        writer.restore()


@dataclass(frozen=True)
class Keys:
    """What the layers read and the blocks give at the subjects of some edits; float64.

    Attributes:
        bare: layer -> k_0 of the bare prompts, ``(edits, in)``.
        mean: layer -> k*, the mean over all prefixes (see :func:`keys_of`), ``(edits, in)``.
        states: layer -> output of the block on the bare prompts, ``(edits, hidden)``.
    """

    bare: dict[int, Tensor]
    mean: dict[int, Tensor]
    states: dict[int, Tensor]


def keys_of(model: LanguageModel, rows: Sequence[Sequence[Row]], layers: Sequence[int], *, mean: str = TEXTS) -> Keys:
    """The keys of each edit from its rewriting rows, the first of which is the bare prompt.

    Args:
        mean: what k* is the mean of: :data:`TEXTS`, all rows alike; :data:`HALVES`, the bare prompt's key and the
            mean of the others, as the published code of MEMIT has it.
    """
    rewriting = [[row for row in own if row.kind == REWRITE] for own in rows]
    counts = [len(own) for own in rewriting]
    inputs, outputs = subject_inputs(model, [row for own in rewriting for row in own], layers)
    firsts = [sum(counts[:number]) for number in range(len(counts))]
    return Keys(
        {layer: value[firsts] for layer, value in inputs.items()},
        {layer: torch.stack([_mean(part, mean) for part in value.split(counts)]) for layer, value in inputs.items()},
        {layer: value[firsts] for layer, value in outputs.items()},
    )


def _mean(keys: Tensor, kind: str) -> Tensor:
    """Of ``keys`` ``(rows, in)``, the bare prompt's first."""
    if kind == HALVES and len(keys) > 1:
        return (keys[0] + keys[1:].mean(0)) / 2
    return keys.mean(0)
