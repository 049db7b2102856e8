"""What a worker of the Ray engine does: one run, on a model that it keeps for the next one."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from keeps import errors
from keeps.errors import KeepsError, StorageError
from keeps.jobs.engines import Shared, Task, do, run_id_of
from keeps.jobs.models import marks_for
from keeps.jobs.processes import own_device
from keeps.ledger.transfer import Parcel, pack
from keeps.ledger.workspace import Workspace

if TYPE_CHECKING:
    from keeps.models.language_model import LanguageModel


@dataclass(frozen=True)
class Ground:
    """Where the command runs, for a worker to see that it is at home there.

    Attributes:
        folder: in the workspace, made for this command.
        cwd: from which relative names of files count.
        node: Ray's name of the machine.
        done: ids of the runs that are finished in the workspace.
    """

    folder: str
    cwd: str
    node: str
    done: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Refusal:
    """An expected error as plain words: Ray would wrap an exception into one of its own."""

    kind: str
    what: str
    where: str
    mend: str

    @classmethod
    def of(cls, error: KeepsError) -> Refusal:
        """The words of ``error``, and the nearest of its types that has a name for everybody."""
        kinds = (kind.__name__ for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
        return cls(next(kinds), error.what, error.where, error.mend)

    def error(self) -> KeepsError:
        """The error itself.

        >>> error = Refusal.of(StorageError("it is full", where="disk", mend="make room")).error()
        >>> type(error).__name__, str(error)
        ('StorageError', 'it is full (disk): make room.')
        """
        return getattr(errors, self.kind)(self.what, where=self.where, mend=self.mend)


def measure_marks(shared: Shared, ground: Ground) -> Refusal | None:
    """Find out what the model knows of the world where the sets ask for it, so that the runs find it measured."""
    try:
        check_ground(ground)
        marks_for(_model(str(shared.model), own_device(shared.device)), shared.learn, shared.keep)
    except KeepsError as error:
        return Refusal.of(error)
    return None


@dataclass(frozen=True)
class Elsewhere:
    """A run that another machine finished in a workspace of its own, for the command to take over."""

    parcel: Parcel
    workspace: Path


def work(number: int, task: Task, shared: Shared, ground: Ground) -> str | Elsewhere | Refusal:
    """Do run ``number`` of the command; returns its id, how to fetch it, or what it refuses."""
    import ray

    try:
        check_ground(ground)
        os.chdir(ground.cwd)
        shared = replace(shared, resume=shared.resume or _died_before(Path(ground.folder) / f"begun-{number}"))
        model = _model(str(shared.model), own_device(shared.device))
        if ray.get_runtime_context().get_node_id() == ground.node:
            return do(task, shared, model)
        return do_elsewhere(task, shared, ground, model, socket.gethostname())
    except KeepsError as error:
        return Refusal.of(error)


def do_elsewhere(task: Task, shared: Shared, ground: Ground, model: LanguageModel, host: str) -> str | Elsewhere:
    """A run on another machine than the command's, in a workspace that only ``host`` writes.

    The ledger is a SQLite file in write-ahead mode, which processes of one machine alone may write
    (https://sqlite.org/wal.html), so this machine keeps its own until the command takes the run over.
    """
    run_id = run_id_of(task, shared, model)
    if run_id in ground.done:
        return run_id
    own = Workspace(shared.workspace / "elsewhere" / host)
    do(task, replace(shared, workspace=own.path), model)
    with own.ledger(read_only=True) as ledger:
        return Elsewhere(pack(ledger, run_id), own.path)


def check_ground(ground: Ground) -> None:
    """Refuse a worker that does not see the workspace, or the files of the command.

    Raises:
        StorageError: a folder is not there.
    """
    for folder, what in ((ground.folder, "the workspace"), (ground.cwd, "the folder of the command")):
        if not Path(folder).is_dir():
            mend = "put it on a disk that all workers share, or keep to one machine: unset RAY_ADDRESS"
            where = str(Path(folder).parents[1] if folder == ground.folder else folder)
            raise StorageError(f"a worker on {socket.gethostname()} does not see {what}", where=where, mend=mend)


def _died_before(begun: Path) -> bool:
    """Whether an earlier worker began this run: then it died, and the run is to be continued."""
    try:
        begun.touch(exist_ok=False)
    except FileExistsError:
        return True
    return False


@lru_cache(maxsize=1)
def _model(source: str, device: str) -> LanguageModel:
    from keeps.models.language_model import LanguageModel

    return LanguageModel.load(source, device=device)
