"""What a merge did to each tensor: how long the task vectors are, what survived of them, where they contradict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keeps.weights.merge_method import Chunk, Merged
from keeps.weights.products import as_matrix, cosines, pairs, quick_block_sums


@dataclass(frozen=True)
class TensorReport:
    """Of one tensor. Without a base model, differences are those from the result.

    Attributes:
        delta_norms: Euclidean length of each model's difference.
        kept: share of each model's non-zero differences that the method did not drop.
        conflicts: share of the elements in which two models differ from the base in opposite directions.
        cosines: between the differences, ``models`` rows.
        change_norm: length of the result's difference from the base; 0 without one.
    """

    name: str
    numel: int
    delta_norms: tuple[float, ...] = ()
    kept: tuple[float, ...] = ()
    conflicts: float = 0.0
    cosines: tuple[tuple[float, ...], ...] = ()
    change_norm: float = 0.0

    def to_mapping(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> TensorReport:
        """Rebuild from :meth:`to_mapping`, after a way through JSON."""
        lists = {key: tuple(values[key]) for key in ("delta_norms", "kept")}
        rows = tuple(tuple(row) for row in values["cosines"])
        return cls(**{**values, **lists, "cosines": rows})


@dataclass(frozen=True)
class PieceReport:
    """Of one piece: whole numbers, and block sums that are added up exactly."""

    counts: NDArray[np.int64]  # (2 models + 1): kept, non-zero, conflicts
    sums: NDArray[np.float64]  # (pairs + 1, blocks)


def measure(chunk: Chunk, merged: Merged) -> PieceReport:
    """Measure one piece."""
    if chunk.base is None:
        deltas, change = chunk.tuned - merged.values, np.zeros((1, merged.values.size), dtype=np.float32)
    else:
        deltas, change = chunk.deltas, (merged.values - chunk.base)[None]
    nonzero = [int(np.count_nonzero(row != 0)) for row in deltas]  # counting truth values is five times as fast
    surviving = merged.surviving
    kept = nonzero if surviving is None else [int(np.count_nonzero(row)) for row in surviving]
    conflicts = 0
    if len(deltas) > 1:
        down, up = deltas[0] < 0, deltas[0] > 0
        for row in deltas[1:]:
            down |= row < 0
            up |= row > 0
        conflicts = int(np.count_nonzero(down & up))
    sums = np.concatenate([quick_block_sums(deltas), quick_block_sums(change)])
    return PieceReport(np.array([*kept, *nonzero, conflicts], dtype=np.int64), sums)


def report_of(name: str, numel: int, models: int, pieces: Sequence[PieceReport]) -> TensorReport:
    """The report of a tensor from those of its pieces."""
    counts = np.add.reduce([piece.counts for piece in pieces])
    totals = np.array([math.fsum(row) for row in np.concatenate([piece.sums for piece in pieces], axis=1)])
    gram = as_matrix(totals[: len(pairs(models))], models)
    kept, nonzero, conflicts = counts[:models], counts[models:-1], counts[-1]
    return TensorReport(
        name,
        numel,
        tuple(_rounded(math.sqrt(max(value, 0.0))) for value in np.diag(gram)),
        tuple(_rounded(k / n) if n else 1.0 for k, n in zip(kept.tolist(), nonzero.tolist(), strict=True)),
        _rounded(int(conflicts) / max(numel, 1)),
        tuple(tuple(_rounded(value) for value in row) for row in cosines(gram)),
        _rounded(math.sqrt(max(float(totals[-1]), 0.0))),
    )


def _rounded(value: float) -> float:
    """Six digits: more would promise what sums in float32 do not hold."""
    return float(f"{value:.6g}")


def overall(reports: Sequence[TensorReport]) -> TensorReport:
    """All tensors together: lengths as of one long vector, shares weighted by elements, cosines from the parts."""
    measured = [report for report in reports if report.delta_norms]
    numel = sum(report.numel for report in measured)
    if not measured or not numel:
        return TensorReport("all", numel)
    models = len(measured[0].delta_norms)
    alike = [report for report in measured if len(report.delta_norms) == models]
    gram = np.zeros((models, models))
    for report in alike:
        norms = np.array(report.delta_norms)
        table = np.array(report.cosines)
        np.fill_diagonal(table, 1.0)
        gram += table * np.outer(norms, norms)
    share = [sum(r.kept[m] * r.numel for r in alike) / max(sum(r.numel for r in alike), 1) for m in range(models)]
    return TensorReport(
        "all",
        numel,
        tuple(_rounded(math.sqrt(value)) for value in np.diag(gram)),
        tuple(_rounded(value) for value in share),
        _rounded(sum(report.conflicts * report.numel for report in measured) / numel),
        tuple(tuple(_rounded(value) for value in row) for row in cosines(gram)),
        _rounded(math.sqrt(sum(report.change_norm**2 for report in measured))),
    )
