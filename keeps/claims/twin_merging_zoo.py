"""Merges that measure the fine-tunes on their tasks, as rows of Twin-Merging's claim: what they keep, cost and weigh.

They get the taught facts as texts (AdaMerging their prompts alone). RegMean, Fisher merging and AdaMerging leave one
static model; EMR-Merging is told which task is asked, as the fine-tunes are.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keeps.claims.base import ClaimRun
from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.merge.adamerging import AdaMerging, AdaMergingSettings
from keeps.merge.emr import EMR, EMRSettings
from keeps.merge.fisher import Fisher, FisherSettings
from keeps.merge.regmean import RegMean, RegMeanSettings
from keeps.models.fine_tunes import FineTune
from keeps.models.language_model import LanguageModel
from keeps.weights.files import folder_size

Scores = Callable[[Any, Mapping[str, RecordSet]], dict[str, float]]
STEPS, RATE = 30, 0.01  # of AdaMerging: the published 500 at 0.001 take half an hour here
WAYS: Mapping[str, Any] = {
    "regmean": RegMean(RegMeanSettings()),
    "fisher": Fisher(FisherSettings()),
    "fisher, floor 1e-12": Fisher(FisherSettings(floor=1e-12)),
    f"adamerging, {STEPS} steps": AdaMerging(AdaMergingSettings(steps=STEPS, learning_rate=RATE)),
    "emr": EMR(EMRSettings()),
}


@dataclass(frozen=True)
class Measured:
    """One merge: shares answered by task, what it took, and what it weighs.

    Attributes:
        static: one set of weights for all tasks.
        weight: bytes of its tensors.
    """

    name: str
    static: bool
    scores: Mapping[str, float]
    seconds: float
    weight: int


def measured_merges(
    model: LanguageModel,
    tuned: Sequence[FineTune],
    facts: Mapping[str, RecordSet],
    scores: Scores,
    run: ClaimRun,
    ways: Mapping[str, Any] = WAYS,
) -> Iterator[Measured]:
    """Merge, ask, throw away; one after the other."""
    learn = [replace(item, prompts=(), records=facts[item.name]) for item in tuned]
    for name, method in ways.items():
        run.progress.message(f"merge: {name}")
        with tempfile.TemporaryDirectory() as place:
            folder, started = Path(place), time.perf_counter()
            given = [FineTune(item.name, item.folder) for item in tuned] if isinstance(method, EMR) else learn
            change = method(model, given, run=Run(folder, seed=0, progress=run.progress))
            seconds = time.perf_counter() - started
            weight = sum(folder_size(path) for path in folder.glob("*.safetensors"))
            changed = change.apply(model)
            try:
                found = {}
                for task, records in facts.items():
                    if hasattr(changed, "use"):
                        changed.use(task)
                    found |= scores(changed, {task: records})
            finally:
                changed.undo()
        yield Measured(name, not hasattr(changed, "use"), found, seconds, weight)
