"""``change.json`` of a method that is done."""

from __future__ import annotations

from collections.abc import Mapping

from keeps.contracts import ChangeRecord, Run
from keeps.models.changes import source_of
from keeps.models.language_model import LanguageModel
from keeps.settings import Settings
from keeps.versions import versions
from keeps.weights.files import folder_size


def write_record(
    kind: str,
    method: str,
    settings: Settings,
    model: LanguageModel,
    data: Mapping[str, str],
    run: Run,
    *,
    fingerprint: str | None = None,
) -> ChangeRecord:
    """Measure the bytes of the tensors in the run's folder and write ``change.json`` beside them, in the main process.

    Args:
        model: with its weights as they were before.
        data: fingerprints of what the method was given, by its name.
        fingerprint: of the model, where it is known already: finding it reads every weight.
    """
    if run.is_main:
        run.measures["disk_bytes"] = sum(folder_size(path) for path in run.folder.glob("*.safetensors"))
    record = ChangeRecord(
        kind=kind,
        method=method,
        settings=settings.to_mapping(),
        base_model=source_of(model),
        base_fingerprint=fingerprint or model.fingerprint,
        seed=run.seed,
        data=dict(data),
        versions=versions(),
        measures=dict(run.measures),
    )
    if run.is_main:
        record.write(run.folder)
    return record
