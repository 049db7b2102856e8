"""What the ledger holds: one record per run and one per probe result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


def now() -> str:
    """This moment in UTC, ISO 8601 to the second, such as ``2025-05-01T09:30:00+00:00``."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class RunRecord:
    """One run of a method: what was asked for, what it cost, and which two results frame it.

    Attributes:
        id: unique in the workspace; a unique prefix of it is enough for users.
        kind: what kind of work, such as ``"adapt"``.
        model: the name users gave; ``model_fingerprint`` is the hash of its tensors.
        learn, keep: the data as users named it; ``data_fingerprints`` maps these words to hashes.
        settings: every setting of the method but the seed (JSON types).
        status: ``"running"``, ``"done"`` or ``"failed"``.
        created: ISO 8601 in UTC.
        command: what to type to repeat the run.
        measures: what it cost: ``train_seconds``, ``peak_memory_bytes``, ``trained_parameters``,
            ``disk_bytes`` and whatever else the method measured (JSON types).
        folder: where its files lie, relative to the workspace.
        before_result, after_result: ids of the probe results of the model before and after.
    """

    id: str
    kind: str
    method: str
    model: str
    model_fingerprint: str
    learn: str = ""
    keep: str = ""
    data_fingerprints: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    status: str = "running"
    created: str = field(default_factory=now)
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    measures: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""
    before_result: str | None = None
    after_result: str | None = None


@dataclass(frozen=True)
class ResultRecord:
    """One probe of one model; its rows are stored beside it.

    Attributes:
        subject: fingerprint of the model, or of the changed model, that was probed.
        subject_name: what people call it.
        probe, probe_fingerprint: name and hash of the questions and of the way they are asked.
        created: ISO 8601 in UTC.
        seconds: what the probing took.
    """

    id: str
    subject: str
    subject_name: str
    probe: str
    probe_fingerprint: str
    created: str = field(default_factory=now)
    seconds: float = 0.0
