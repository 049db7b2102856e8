"""Training in several stages, each with its own curves and checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from keeps.contracts import Run

SUMMED = ("train_seconds", "tokens", "steps")  # costs of a run that are those of its stages together


@contextmanager
def stage(run: Run, name: str) -> Iterator[Run]:
    """A run for a later stage: its curves bear the stage's name, its costs are added to those of ``run``."""
    part = replace(run, curves=[], measures={})
    yield part
    run.curves += [(f"{name}_{curve}", step, value) for curve, step, value in part.curves]
    costs = {key: run.measures.get(key, 0) + part.measures[key] for key in SUMMED}
    speed = costs["tokens"] / costs["train_seconds"] if costs["train_seconds"] else 0.0
    run.measures |= {**part.measures, **costs, "tokens_per_second": speed}
