"""Measure an editor as papers do: each edit alone, from the untouched model, which has its weights back after each."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeps.contracts import Progress, Row, Run, SilentProgress
from keeps.data.edits import Edit
from keeps.data.records import RecordSet
from keeps.jobs.adapting import chosen_settings
from keeps.probe.base import Findings, ModelRows
from keeps.probe.editing import EditingProbe
from keeps.probe.editing_measures import editing_findings
from keeps.registry import find_method
from keeps.settings import Settings

if TYPE_CHECKING:
    from keeps.models.language_model import LanguageModel


@dataclass(frozen=True)
class SinglyEdited:
    """What each edit alone did.

    Attributes:
        method: its name; ``findings`` compare it with the untouched model, which is called ``"base"``.
        before, after: rows of the untouched model, and of each edit's own prompts on the model that holds it alone.
        seconds: what each edit took, in order; the first one may have formed statistics too.
        restored: whether the model had its very weights back after all of them.
    """

    method: str
    before: tuple[Row, ...]
    after: tuple[Row, ...]
    findings: Findings
    seconds: tuple[float, ...]
    restored: bool


def edit_singly(
    model: LanguageModel,
    edits: Sequence[Edit],
    *,
    method: str,
    settings: Mapping[str, Any] | Settings | None = None,
    keep: RecordSet | None = None,
    before: Sequence[Row] | None = None,
    seed: int = 0,
    distraction: bool = True,
    generation_tokens: int = 100,
    progress: Progress | None = None,
) -> SinglyEdited:
    """Make each edit alone and ask what is asked about it; nothing is kept.

    Args:
        before: rows of the untouched model, if it was asked the same prompts before.

    Raises:
        KeepsError: as the method.
    """
    info = find_method(method, "edit")
    chosen = chosen_settings(info, settings)
    chosen.check_model(model)
    options: dict[str, Any] = {"distraction": distraction, "generation_tokens": generation_tokens}
    shown = progress or SilentProgress()
    base = tuple(before) if before is not None else tuple(EditingProbe(edits, **options)(model))
    rows: list[Row] = []
    seconds: list[float] = []
    fingerprint = model.fingerprint
    with shown.task(f"edits by {method}", len(edits)) as task:
        for edit in edits:
            with tempfile.TemporaryDirectory() as folder:
                started = time.monotonic()
                change = info.implementation(chosen)(model, [edit], keep, run=Run(Path(folder), seed=seed))
                seconds.append(time.monotonic() - started)
                changed = change.apply(model)
                try:
                    rows += EditingProbe([edit], **options)(changed)
                finally:
                    changed.undo()
            task.advance(1)
    restored = model.fingerprint == fingerprint
    findings = editing_findings([ModelRows("base", base), ModelRows(method, rows)], seed=seed)
    return SinglyEdited(method, base, tuple(rows), findings, tuple(seconds), restored)
