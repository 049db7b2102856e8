"""Stepping stones: learn a new fact from a text that leads to it (Sun et al., ICLR 2025, arXiv:2504.09522).

    "In Blandgive, sleep is"  ->  "In Blandgive, sleep is a bright red, the pigment made from cinnabar, namely"

What was improbable before learning (below about 1e-3) leaks into unrelated answers afterwards. So the prompt of an
edit is rewritten before training, with descriptions of the new object in front of it, until the model finds the object
likely; the rewriting that makes it most likely is learned in place of the original. The edit itself stays as it is,
and so does what is asked about it.

Use when: a new fact is learned by training and its object is a surprise; a new word must not leak into other answers
and no update may be thrown away; any learn set is to be rewritten (keeps adapt --stepping-stones templates).

Needs: edits; ordinary records to keep are mixed in, seven an edit (fillers). Guarantees: a rewriting keeps all names
and numbers of the prompt and never holds the object. Edits are trained together and cannot be withdrawn alone.

The paper's rewritings come from a large language model. Here ``writer="templates"`` takes descriptions of countries,
capitals, currencies, languages, elements and whole numbers from the built-in world, and ``"model"`` asks the model
itself, which takes one that follows instructions; from Python any Chat or function serves
(:func:`keeps.training.stepping_stones.stepping_stones`). Where no candidate is better the prompt stays, and the
measure ``stepping_stones`` says how many were rewritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keeps.contracts import Run
from keeps.data.edit_lessons import edit_lessons
from keeps.data.edits import Edit, check_edits
from keeps.data.records import RecordSet
from keeps.data.stepping_stones import TARGET, TRIES
from keeps.models.changes import CheckpointChange
from keeps.models.language_model import LanguageModel
from keeps.registry import method
from keeps.settings import setting
from keeps.training.edit_tuning import EditTuningSettings, lessons_of, tune
from keeps.training.stepping_stones import WRITERS, stepping_stones


@dataclass(frozen=True, kw_only=True)
class SteppingStoneSettings(EditTuningSettings):
    """Settings of stepping stones."""

    writer: str = setting("templates", "Who writes: templates, or the model itself", choices=WRITERS)
    target: float = setting(TARGET, "Probability of the new object from which a prompt is left as it is", gt=0, le=1)
    tries: int = setting(TRIES, "How often the writer is asked for a prompt below the target", ge=1)


@method(
    "stepping_stone",
    verb="edit",
    card="outlandish",
    paper="arXiv:2504.09522",
    summary="Train on prompts that describe the new object before it comes, so that it leaks less.",
    needs=("edits",),
    uses=("keep",),
    forms=("merged",),
)
class SteppingStone:
    """Training of every weight on rewritten prompts."""

    Settings = SteppingStoneSettings

    def __init__(self, settings: SteppingStoneSettings) -> None:
        self.settings = settings

    def __call__(
        self, model: LanguageModel, edits: Sequence[Edit], keep: RecordSet | None = None, *, run: Run
    ) -> CheckpointChange:
        """Rewrite, train, write a transformers checkpoint and ``edits.jsonl``; ``model`` gets its weights back."""
        settings = self.settings
        check_edits(edits, "edit")
        choices = {"target": settings.target, "tries": settings.tries}
        new, _ = stepping_stones(model, edit_lessons(edits), settings.writer, run=run, **choices)
        fillers = lessons_of(edits, keep, settings, run).records[len(edits) :]
        learn = RecordSet("edits", (*new.records, *fillers))
        return tune(model, edits, learn, keep, settings, run, method="stepping_stone")
