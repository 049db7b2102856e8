"""The journal of a merge: which tensors are whole on the disk, and what was measured of them. One JSON line each."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from keeps.errors import InterruptedRunError
from keeps.weights.files import storage_error
from keeps.weights.locks import take_lock
from keeps.weights.merge_report import TensorReport

FORMAT = 1


class Journal:
    """Held by one process at a time; lines that were not wholly written count as not written."""

    def __init__(self, path: Path, identity: str) -> None:
        """Open, or begin, the journal of the merge ``identity``.

        Raises:
            InterruptedRunError: another process works on it, or it belongs to another merge.
            StorageError: it cannot be written.
        """
        self.path = path
        self.done: dict[str, TensorReport] = {}
        self._waiting: list[TensorReport] = []
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise storage_error(error, path) from None
        try:
            self._lock()
            self._read(identity)
        except BaseException:
            os.close(self._file)
            raise

    def _lock(self) -> None:
        try:
            free = take_lock(self._file)
        except OSError as error:
            raise storage_error(error, self.path) from None
        if not free:
            mend = "wait for it, or stop it"
            raise InterruptedRunError("another process merges here", where=str(self.path), mend=mend)

    def _read(self, identity: str) -> None:
        size = os.fstat(self._file).st_size
        whole, _, torn = os.pread(self._file, size, 0).rpartition(b"\n")
        if torn:
            os.ftruncate(self._file, size - len(torn))
        lines = whole.splitlines()
        if not lines:
            self._append([{"format": FORMAT, "identity": identity}])
            return
        found = [_mapping(line) for line in lines]
        if found[0] != {"format": FORMAT, "identity": identity}:
            what = "the interrupted merge had other models, settings or files"
            raise InterruptedRunError(what, where=str(self.path), mend="throw it away with --restart")
        for values in found[1:]:
            report = TensorReport.from_mapping(values)
            self.done[report.name] = report

    def note(self, report: TensorReport) -> None:
        """A tensor is written; :meth:`flush` says so when its bytes are on the disk."""
        self.done[report.name] = report
        self._waiting.append(report)

    def flush(self) -> None:
        """Append what was noted."""
        self._append([report.to_mapping() for report in self._waiting])
        self._waiting.clear()

    def _append(self, lines: list[dict[str, Any]]) -> None:
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        try:
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError as error:
            raise storage_error(error, self.path) from None

    def remove(self) -> None:
        """The merge is complete."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


def _mapping(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError:
        values = None
    return values if isinstance(values, dict) else {}
