"""Models as jobs name them: a model, a finished run, or a run's folder; and the marks of a model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from keeps.contracts import ChangeRecord, Progress, SilentProgress
from keeps.data.rows import path_mode
from keeps.errors import StorageError
from keeps.jobs.data import names_marks
from keeps.jobs.processes import own_device
from keeps.ledger.records import RunRecord
from keeps.ledger.workspace import Workspace
from keeps.models.remote_completion import is_remote, remote_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keeps.models.changes import StoredChange
    from keeps.models.language_model import LanguageModel


@dataclass(frozen=True)
class Named:
    """Something that can be probed: a model, or a change of one.

    Attributes:
        name: what people call it.
        model: what its base model is loaded from.
        folder: of the change; None for a plain model.
        run: the ledger's entry of the change, where it has one.
    """

    name: str
    model: str
    folder: Path | None = None
    run: RunRecord | None = None

    @cached_property
    def change(self) -> StoredChange | None:
        """What lies in the folder; None for a plain model.

        Raises:
            StorageError: there is nothing yet, or it is of another version.
        """
        from keeps.models.changes import load_change

        if self.folder is None:
            return None
        if self.run is not None and self.run.status != "done" and not self.folder.exists():
            mend = (
                "finish it with --resume" if self.run.status == "running" else "mend what stopped it, and run it again"
            )
            raise StorageError(f"the run is {self.run.status} and has no model yet", where=self.run.id, mend=mend)
        return load_change(self.folder)

    @property
    def base_fingerprint(self) -> str | None:
        """Of the base model, where it is known without loading anything."""
        if self.run is not None:
            return self.run.model_fingerprint
        return None if self.change is None else self.change.record.base_fingerprint


def how_to_finish(run: RunRecord) -> str:
    """What to do about a run that is not done."""
    return "mend what stopped it, and run it again" if run.status == "failed" else "finish it with --resume"


def resolve(name: str, workspace: Workspace) -> Named:
    """What ``name`` means: a run of the workspace (id or unique prefix), a run's folder, a server's or another model.

    Raises:
        UnknownNameError: several runs begin with ``name``.
        StorageError: the folder's ``change.json`` is damaged or of another version.
        SettingsError: a server's address is none.
    """
    if is_remote(name):
        return Named(remote_model(name).name, name)
    folder = Path(name)
    if path_mode(folder / "change.json") is not None:
        record = ChangeRecord.read(folder)
        run = _run_of(folder.resolve().name, workspace, exact=True)
        if run is not None and run.model_fingerprint == record.base_fingerprint:
            return Named(run.id, run.model, folder, run)
        return Named(folder.name, record.base_model, folder)
    run = _run_of(name, workspace)
    return Named(name, name) if run is None else Named(run.id, run.model, workspace.run_folder(run.id), run)


def _run_of(name: str, workspace: Workspace, *, exact: bool = False) -> RunRecord | None:
    """The run called ``name``, or the only one whose id begins so; None where no id does."""
    if not name or not workspace.database.exists():
        return None
    with workspace.ledger(read_only=True) as ledger:
        ids = [run.id for run in ledger.runs()]
        found = name in ids or (not exact and any(identity.startswith(name) for identity in ids))
        return ledger.find_run(name) if found else None


def load_base(named: Named, *, device: str | None = None, progress: Progress | None = None) -> LanguageModel:
    """The model under ``named``, without its change; that of a server can be asked, and has no weights."""
    if is_remote(named.model):
        return cast("LanguageModel", remote_model(named.model))
    from keeps.models.language_model import LanguageModel

    return LanguageModel.load(named.model, device=own_device(device), progress=progress)


@contextmanager
def changed(named: Named, base: LanguageModel) -> Iterator[LanguageModel]:
    """The model that ``named`` stands for: ``base`` with its change applied while the block runs."""
    if named.change is None:
        yield base
        return
    model = named.change.apply(base)
    try:
        yield model
    finally:
        model.undo()


def stored_marks(fingerprint: str) -> Mapping[str, str] | None:
    """The marks of the model with this fingerprint: those shipped or measured before; None if there are none."""
    from keeps.data.world.marks import default_marks, default_marks_fingerprint, read_marks

    if fingerprint == default_marks_fingerprint():
        return default_marks()
    path = _marks_file(fingerprint)
    return read_marks(path) if path.exists() else None


def marks_for(model: LanguageModel, *specs: object, progress: Progress | None = None) -> Mapping[str, str] | None:
    """The marks of ``model``: those shipped, those measured before, or measured now (minutes, once).

    None where no set in ``specs`` asks for known, uncertain or unknown facts.
    """
    from keeps.data.world.marks import write_marks
    from keeps.probe.marks import mark_world
    from keeps.weights.files import check_writable

    if not any(names_marks(spec) for spec in specs):
        return None
    fingerprint = model.fingerprint
    stored = stored_marks(fingerprint)
    if stored is not None:
        return stored
    path = _marks_file(fingerprint)
    check_writable(path.parent)  # before minutes are spent
    progress = progress or SilentProgress()
    progress.message(f"measuring what {model.name} knows of the world (once; kept for later)")
    marks = mark_world(model, progress=progress)
    write_marks(path, marks, model=model.name, fingerprint=fingerprint)
    return marks


def _marks_file(fingerprint: str) -> Path:
    from keeps.models.gguf import cache_folder

    return cache_folder() / "marks" / f"{fingerprint}.json"
