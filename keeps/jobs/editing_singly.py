"""Measure an editor as papers do: each edit alone, from the untouched model, which has its weights back after each."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keeps.contracts import Progress, Row, Run, SilentProgress
from keeps.data.edits import Edit
from keeps.data.records import RecordSet
from keeps.jobs.adapting import chosen_settings
from keeps.models.changes import StoredChange
from keeps.probe.base import Findings, ModelRows
from keeps.probe.editing import EditingProbe
from keeps.probe.editing_measures import editing_findings
from keeps.registry import find_method
from keeps.settings import Settings
from keeps.training.locate_edit import LocateAndEdit
from keeps.training.locate_singly import each_alone

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
    with tempfile.TemporaryDirectory() as folder, shown.task(f"edits by {method}", len(edits)) as task:
        editor = info.implementation(chosen)
        for edit, change, taken in _changes(editor, model, edits, keep, Run(Path(folder), seed=seed)):
            seconds.append(taken)
            changed = change.apply(model)
            try:
                rows += EditingProbe([edit], **options)(changed)
            finally:
                changed.undo()
            shutil.rmtree(change.folder)
            task.advance(1)
    restored = model.fingerprint == fingerprint
    findings = editing_findings([ModelRows("base", base), ModelRows(method, rows)], seed=seed)
    return SinglyEdited(method, base, tuple(rows), findings, tuple(seconds), restored)


def _changes(
    editor: Any, model: LanguageModel, edits: Sequence[Edit], keep: RecordSet | None, run: Run
) -> Iterator[tuple[Edit, StoredChange, float]]:
    """Each edit, what it alone changes, and its seconds; side by side where the method can search so."""
    if isinstance(editor, LocateAndEdit):
        for edit, change in zip(edits, each_alone(editor, model, edits, run=run), strict=True):
            yield edit, change, change.record.measures["edit_seconds"]
        return
    for number, edit in enumerate(edits):
        folder = run.folder / str(number)
        folder.mkdir()
        started = time.monotonic()
        change = type(editor)(editor.settings)(model, [edit], keep, run=Run(folder, seed=run.seed))
        yield edit, change, time.monotonic() - started
