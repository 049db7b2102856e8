"""A job: everything that decides the result of a run, and what is written down about it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keeps.jobs.card import model_card
from keeps.jobs.data import JobData
from keeps.ledger.lines import KnowledgeDiff
from keeps.ledger.records import RunRecord
from keeps.registry import MethodInfo
from keeps.settings import Settings
from keeps.versions import versions

if TYPE_CHECKING:
    from keeps.models.language_model import LanguageModel


@dataclass(frozen=True)
class AdaptOutcome:
    """A finished run: where it lies and what it changed.

    Attributes:
        reused: it was in the ledger already, and nothing was trained.
        export_difference: largest difference of logits between the trained model and what was written.
    """

    run_id: str
    folder: Path
    diff: KnowledgeDiff
    reused: bool
    export_difference: float | None = None


@dataclass(frozen=True)
class Job:
    """Everything that decides the result of a run, and so its name; ``learn`` and ``keep`` are the user's words."""

    info: MethodInfo
    settings: Settings
    data: JobData
    learn: str
    keep: str
    seed: int
    model_fingerprint: str

    @property
    def run_id(self) -> str:
        """The method and a hash of everything that decides the result."""
        settings, data = self.settings.to_mapping(), self.data.fingerprints
        decides = [self.info.name, settings, data, self.seed, self.model_fingerprint]
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        return f"{self.info.name}-{digest[:10]}"

    def record(self, model: LanguageModel, before: str, command: str) -> RunRecord:
        """The ledger's entry of the run, under way; ``before`` is the result of the untouched ``model``."""
        return RunRecord(
            id=self.run_id,
            kind=self.info.verb,
            method=self.info.name,
            model=model.name,
            model_fingerprint=self.model_fingerprint,
            learn=self.learn,
            keep=self.keep,
            data_fingerprints=self.data.fingerprints,
            settings=self.settings.to_mapping(),
            seed=self.seed,
            command=command,
            versions=versions(),
            folder=f"runs/{self.run_id}",
            before_result=before,
        )

    def card(self, kind: str, model: LanguageModel) -> str:
        """The model card of the run, whose result is a ``kind`` of change of ``model``."""
        from keeps.models.changes import source_of

        return model_card(
            kind,
            self.run_id,
            source_of(model),
            self.settings.to_mapping(),
            method=self.info.name,
            paper=self.info.paper,
            model=model.name,
            verb=self.info.verb,
            learn=self.learn,
            keep=self.keep,
            seed=self.seed,
        )
