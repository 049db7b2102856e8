"""Edits by training every weight: lessons among ordinary records, a checkpoint, and the list of edits beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keeps.contracts import Run
from keeps.data.edit_lessons import FILLERS, edit_lessons
from keeps.data.edits import Edit, check_edits, edits_fingerprint
from keeps.data.records import RecordSet
from keeps.models.changes import CheckpointChange
from keeps.models.edit_files import EditEntry, write_entries
from keeps.models.language_model import LanguageModel
from keeps.settings import setting
from keeps.training.settings import TrainingSettings
from keeps.training.whole import train_whole

ALL = {"entries": ["all"]}  # of edits that were trained together: none can be taken out alone


@dataclass(frozen=True, kw_only=True)
class EditTuningSettings(TrainingSettings):
    """Settings of editing by training every weight; the defaults are the protocol of arXiv:2504.09522."""

    epochs: int = setting(20, "how often each edit is presented", ge=1)
    batch_size: int = setting(8, "examples per forward pass: with 7 fillers an edit, one edit in each on average", ge=1)
    learning_rate: float = setting(5e-5, "largest learning rate, reached after the warm-up", gt=0, lt=10)
    schedule: str = setting(
        "constant", "how the learning rate falls after the warm-up", choices=("cosine", "linear", "constant")
    )
    fillers: int = setting(FILLERS, "Ordinary records of the keep set that are trained on beside each edit", ge=0)
    order: str = setting(
        "batch", "How several edits are made: together, as training is", choices=("batch",), advanced=True
    )


def lessons_of(edits: Sequence[Edit], keep: RecordSet | None, settings: EditTuningSettings, run: Run) -> RecordSet:
    """What is trained on: the edits and their fillers.

    Raises:
        KeepsError: an edit contradicts itself, or an id stands twice.
    """
    check_edits(edits, "edit")
    return edit_lessons(edits, keep, fillers=settings.fillers, seed=run.seed)


def tune(
    model: LanguageModel,
    edits: Sequence[Edit],
    learn: RecordSet,
    keep: RecordSet | None,
    settings: EditTuningSettings,
    run: Run,
    *,
    method: str,
) -> CheckpointChange:
    """Train all weights on ``learn``, write a checkpoint and ``edits.jsonl``, and give ``model`` its weights back."""
    data = {"edits": edits_fingerprint(edits)}
    if keep is not None and len(learn) > len(edits):
        data["keep"] = keep.fingerprint
    run.measures["edits"] = len(edits)
    change = train_whole(model, learn, settings, run, method=method, data=data)
    if run.is_main:
        write_entries(run.folder, [EditEntry.of(edit, ALL) for edit in edits])
    return change
