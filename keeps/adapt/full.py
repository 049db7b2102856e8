"""Full fine-tuning: train every weight on the new data.

The oldest way and the upper bound of what training can learn; nothing protects what the model knew.
The result is a whole transformers checkpoint.

Use when: every weight of the model may change, and there is memory to retrain it whole; an upper bound
of what training can learn is wanted.

Needs: facts, examples or texts to learn. Guarantees: nothing about what is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.models.changes import CheckpointChange
from keeps.models.language_model import LanguageModel
from keeps.registry import method
from keeps.settings import setting
from keeps.training.settings import TrainingSettings
from keeps.training.whole import train_whole


@dataclass(frozen=True, kw_only=True)
class FullSettings(TrainingSettings):
    """Settings of full fine-tuning."""

    # A tenth of an adapter's learning rate: every weight moves, not a low-rank part of them.
    learning_rate: float = setting(5e-5, "largest learning rate, reached after the warm-up", gt=0, lt=10)


@method(
    "full",
    verb="adapt",
    paper="the common baseline",
    summary="Train every weight: learns anything, protects nothing, writes a whole checkpoint.",
    card="corda",
    needs=("learn",),
    forms=("merged",),
)
class FullFineTuning:
    """Train every weight of the model on the learn set."""

    Settings = FullSettings

    def __init__(self, settings: FullSettings) -> None:
        self.settings = settings

    def __call__(
        self, model: LanguageModel, learn: RecordSet, keep: RecordSet | None = None, *, run: Run
    ) -> CheckpointChange:
        """Train, write a transformers checkpoint to ``run.folder``, and give ``model`` its weights back."""
        del keep  # nothing here protects it
        return train_whole(model, learn, self.settings, run, method="full", data={"learn": learn.fingerprint})
