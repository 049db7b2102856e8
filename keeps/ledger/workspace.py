"""The workspace: one folder with the ledger, the runs and their locks.

::

    keeps-runs/
      keeps.db            the ledger
      runs/ID/            one finished run
      runs/ID.partial/    one that is under way, or was interrupted
      locks/ID            held by the process that works on the run
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keeps.errors import InterruptedRunError, StorageError
from keeps.ledger.store import Ledger
from keeps.weights.locks import take_lock

VARIABLE = "KEEPS_WORKSPACE"
DEFAULT = "keeps-runs"


class Workspace:
    """Where runs and results live: ``path``, else ``$KEEPS_WORKSPACE``, else ``./keeps-runs``.

    Nothing is made on the disk before something is written.

    >>> import tempfile
    >>> workspace = Workspace(tempfile.mkdtemp())
    >>> workspace.partial_folder("r1").name
    'r1.partial'
    >>> with workspace.ledger() as ledger:
    ...     ledger.runs()
    []
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = Path(path or os.environ.get(VARIABLE) or DEFAULT).expanduser()

    @property
    def database(self) -> Path:
        """The file of the ledger."""
        return self.path / "keeps.db"

    @property
    def runs(self) -> Path:
        """The folder of all runs."""
        return self.path / "runs"

    def ledger(self, *, read_only: bool = False) -> Ledger:
        """Open the ledger; close it after use. Raises as :meth:`keeps.ledger.Ledger.open`."""
        if not read_only:
            self.ensure()
        return Ledger.open(self.database, read_only=read_only)

    def run_folder(self, run_id: str) -> Path:
        """Where the finished run lies."""
        return self.runs / _one_name(run_id)

    def partial_folder(self, run_id: str) -> Path:
        """Where the run lies until it is complete."""
        return self.runs / f"{_one_name(run_id)}.partial"

    def ensure(self) -> Path:
        """Make the folders if they are missing; returns ``path``.

        Raises:
            StorageError: a folder cannot be made or written, or a file is in its place.
        """
        for folder in (self.runs, self.path / "locks"):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise _not_writable(self.path, error.strerror or str(error)) from None
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise _not_writable(self.path, "no right to write")
        return self.path

    @contextmanager
    def lock(self, run_id: str) -> Iterator[None]:
        """Hold the run for this process; the system lets go of it however the process ends.

        Raises:
            InterruptedRunError: another live process works on the run.
            StorageError: the workspace is not writable.
        """
        self.ensure()
        path = self.path / "locks" / _one_name(run_id)
        try:
            # The file stays: removing it would let two processes lock two files of the same name.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _not_writable(path, error.strerror or str(error)) from None
        try:
            try:
                free = take_lock(descriptor)
            except OSError as error:
                raise _not_writable(path, f"locks do not work here, {error.strerror}") from None
            if not free:
                holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
                raise InterruptedRunError(
                    f'run "{run_id}" is under way in another process' + (f" (number {holder})" if holder else ""),
                    where=str(self.run_folder(run_id)),
                    mend="wait until it ends, or end that process and continue with --resume",
                )
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)


def _one_name(run_id: str) -> str:
    """``run_id``, refused unless it is a plain name that cannot lead out of its folder."""
    if not run_id or run_id.startswith(".") or any(sign in run_id for sign in "/\\\0"):
        raise StorageError(f'"{run_id}" cannot be the name of a folder', mend="use an id that `keeps runs` lists")
    return run_id


def _not_writable(path: Path, reason: str) -> StorageError:
    mend = f"choose another folder with --workspace or ${VARIABLE}, or change its permissions"
    return StorageError(f"the workspace is not writable ({reason})", where=str(path), mend=mend)
