"""What merges of Twin-Merging's claim are asked: scores by task, and the static merges that stand beside the twin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from keeps.claims.base import ClaimRun
from keeps.data.records import RecordSet
from keeps.models.adapters import overwritten
from keeps.models.fine_tunes import Deltas
from keeps.models.language_model import LanguageModel
from keeps.numerics.ties import ties
from keeps.numerics.twin import shared_expert
from keeps.probe.facts import FactProbe

SCALES = (0.3, 0.6, 1.0)  # of task arithmetic and TIES; the best is reported


def scores(answerer: Any, facts: Mapping[str, RecordSet]) -> dict[str, float]:
    """Share of each task's wordings that are answered rightly."""
    found = {}
    for name, records in facts.items():
        rows = FactProbe(records.questions("learn"))(answerer)
        found[name] = sum(row.score for row in rows) / len(rows)
    return found


def normalised(found: Mapping[str, float], alone: Mapping[str, float]) -> float:
    """Mean over tasks of 100 score / score of the fine-tune."""
    return sum(100 * found[name] / max(alone[name], 1e-9) for name in alone) / len(alone)


@contextmanager
def having(model: LanguageModel, value: Callable[[str, Tensor], Tensor]) -> Iterator[LanguageModel]:
    """The model with other parameters, put back bit by bit."""
    parameters = dict(model.model.named_parameters())
    with overwritten(parameters, ((name, value(name, own.detach())) for name, own in parameters.items())):
        yield model


def experts_score(model: LanguageModel, deltas: Deltas, records: RecordSet) -> float:
    """How much of its own task a fine-tune answers."""
    with having(model, lambda name, base: base + deltas.of(name)) as changed:
        return scores(changed, {"own": records})["own"]


def static_merges(
    model: LanguageModel, deltas: list[Deltas], facts: Mapping[str, RecordSet], run: ClaimRun
) -> dict[str, dict[str, float]]:
    """What the static merges answer, by name."""
    found = {}
    ways: dict[str, Callable[[str, Tensor], Tensor]] = {
        "average": lambda name, base: base + sum(each.of(name) for each in deltas) / len(deltas)
    }
    for scale in SCALES:
        ways[f"task arithmetic, {scale:g}"] = lambda name, base, scale=scale: shared_expert(
            base, [each.of(name) for each in deltas], scale
        )
        ways[f"ties, {scale:g}"] = lambda name, base, scale=scale: (
            base + scale * ties([each.of(name) for each in deltas], 0.2)
        )
    for name, way in ways.items():
        run.progress.message(f"static merge: {name}")
        with having(model, way) as changed:
            found[name] = scores(changed, facts)
    return found
