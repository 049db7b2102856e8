"""The ledger: every run, every probed row and every training curve of a workspace, in one file.

One embedded database (``keeps.db``) per workspace. Every write is one transaction: a process that
is killed leaves all rows of a result or none. Losing the file loses no model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keeps.contracts import Row
from keeps.errors import LedgerError, UnknownNameError, nearest
from keeps.ledger.records import ResultRecord, RunRecord, now
from keeps.ledger.schema import connect, in_words, transaction

RUN_FIELDS = tuple(item.name for item in dataclasses.fields(RunRecord))
RESULT_FIELDS = tuple(item.name for item in dataclasses.fields(ResultRecord))
JSON_FIELDS = frozenset({"data_fingerprints", "settings", "versions", "measures"})
ROW_COLUMNS = 'id, "group", prompt, expected, answer, correct, score, logprob, kind, details'

Point = tuple[str, int, float]  # name of the curve, step, value


class Ledger:
    """The records of one workspace; use as a context manager, or call :meth:`close`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Ledger.open(Path(folder) / "keeps.db") as ledger:
    ...     row = Row("1", "keep: capital", "The capital of Norway is", "Oslo", "Oslo", True, 1.0, -0.1)
    ...     result = ledger.add_result(
    ...         subject="m1", subject_name="my model", probe="world", probe_fingerprint="p1", rows=[row]
    ...     )
    ...     ledger.rows(result) == [row]
    True
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, *, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self._connection = connection

    @classmethod
    def open(cls, path: Path | str, *, read_only: bool = False) -> Ledger:
        """Open the ledger file at ``path``; made if missing, unless ``read_only``.

        Raises:
            LedgerError: missing (read only), damaged, of another schema version, or not a ledger.
            StorageError: the folder is not writable or the disk is full.
        """
        path = Path(path)
        return cls(path, connect(path, read_only=read_only), read_only=read_only)

    def close(self) -> None:
        """Close the file; the ledger cannot be used after it."""
        self._connection.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- runs ---------------------------------------------------------------------------------

    def add_run(self, record: RunRecord) -> None:
        """Store a new run.

        Raises:
            LedgerError: a run with this id is there already, or names a result that is not.
        """
        with self._writing():
            if self._select("SELECT 1 FROM runs WHERE id = ?", record.id):
                raise LedgerError(
                    f'there is a run "{record.id}" already', where=str(self.path), mend="update it instead"
                )
            marks = ", ".join("?" * len(RUN_FIELDS))
            values = [self._cell(name, getattr(record, name)) for name in RUN_FIELDS]
            self._connection.execute(f"INSERT INTO runs ({', '.join(RUN_FIELDS)}) VALUES ({marks})", values)

    def update_run(self, run_id: str, **changes: Any) -> RunRecord:
        """Change fields of a stored run, such as ``status="done"``; returns the run as it is now.

        Raises:
            UnknownNameError: there is no such run or field.
        """
        for name in changes:
            if name not in RUN_FIELDS or name == "id":
                raise UnknownNameError(f'a run has no field "{name}" to change', mend=nearest(name, RUN_FIELDS))
        with self._writing():
            if changes:
                assignments = ", ".join(f"{name} = ?" for name in changes)
                values = [self._cell(name, value) for name, value in changes.items()]
                self._connection.execute(f"UPDATE runs SET {assignments} WHERE id = ?", [*values, run_id])
            found = self._select(f"SELECT {', '.join(RUN_FIELDS)} FROM runs WHERE id = ?", run_id)
            if not found:
                raise self._unknown("runs", run_id)
        return self._run(found[0])

    def find_run(self, name: str) -> RunRecord:
        """The run whose id is ``name``, or begins with it and is the only one to.

        Raises:
            UnknownNameError: no run or more than one matches; the nearest ids are listed.
        """
        columns = ", ".join(RUN_FIELDS)
        with in_words(self.path):
            exact = self._select(f"SELECT {columns} FROM runs WHERE id = ?", name)
            if exact:
                return self._run(exact[0])
            found = self._select(f"SELECT {columns} FROM runs WHERE substr(id, 1, length(?1)) = ?1 ORDER BY id", name)
        if len(found) == 1 and name:
            return self._run(found[0])
        if found and name:
            ids = ", ".join(row[0] for row in found[:5])
            raise UnknownNameError(
                f'"{name}" begins {len(found)} run ids', where=str(self.path), mend=f"say which: {ids}"
            )
        raise self._unknown("runs", name)

    def runs(self, **filters: Any) -> list[RunRecord]:
        """All runs, oldest first, whose fields equal the filters: ``runs(method="corda", status="done")``.

        Raises:
            UnknownNameError: a filter is no field of a run.
        """
        for name in filters:
            if name not in RUN_FIELDS or name in JSON_FIELDS:
                raise UnknownNameError(f'runs cannot be filtered by "{name}"', mend=nearest(name, RUN_FIELDS))
        condition = " AND ".join(f"{name} IS ?" for name in filters) or "1"
        query = f"SELECT {', '.join(RUN_FIELDS)} FROM runs WHERE {condition} ORDER BY created, id"
        with in_words(self.path):
            return [self._run(row) for row in self._select(query, *filters.values())]

    # --- results ------------------------------------------------------------------------------

    def add_result(
        self,
        *,
        subject: str,
        subject_name: str,
        probe: str,
        probe_fingerprint: str,
        rows: Sequence[Row],
        seconds: float = 0.0,
    ) -> str:
        """Store a probe result with all its rows, or none of it; returns its id.

        The same model probed the same way is the same result: what is stored already is kept and
        its id returned. Tuples in ``details`` come back as lists, as everywhere in JSON.

        Raises:
            LedgerError: there is no row, two rows share group and id, or a value is not a number.
        """
        result_id = hashlib.sha256(f"{subject}\n{probe_fingerprint}".encode()).hexdigest()[:16]
        cells = [(result_id, position, *self._row_cells(row)) for position, row in enumerate(rows)]
        if not cells:
            raise LedgerError("a result without rows", where=probe, mend="probe with at least one question")
        if len({(row.group, row.id) for row in rows}) < len(rows):
            raise LedgerError("two rows share group and id", where=probe, mend="give every question its own id")
        with self._writing():
            if not self._select("SELECT 1 FROM results WHERE id = ?", result_id):
                header = (result_id, subject, subject_name, probe, probe_fingerprint, now(), float(seconds))
                self._connection.execute("INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?)", header)
                marks = ", ".join("?" * 12)
                self._connection.executemany(f"INSERT INTO rows VALUES ({marks})", cells)
        return result_id

    def find_result(self, subject: str, probe_fingerprint: str) -> ResultRecord | None:
        """The result of this model under this probe, or None."""
        found = self.results(subject=subject, probe_fingerprint=probe_fingerprint)
        return found[0] if found else None

    def result(self, result_id: str) -> ResultRecord:
        """The result with this id.

        Raises:
            UnknownNameError: there is none.
        """
        found = self.results(id=result_id)
        if not found:
            raise self._unknown("results", result_id)
        return found[0]

    def results(self, **filters: Any) -> list[ResultRecord]:
        """All results, oldest first, whose fields equal the filters: ``results(probe="world")``."""
        for name in filters:
            if name not in RESULT_FIELDS:
                raise UnknownNameError(f'results cannot be filtered by "{name}"', mend=nearest(name, RESULT_FIELDS))
        condition = " AND ".join(f"{name} IS ?" for name in filters) or "1"
        query = f"SELECT {', '.join(RESULT_FIELDS)} FROM results WHERE {condition} ORDER BY created, id"
        with in_words(self.path):
            return [ResultRecord(*row) for row in self._select(query, *filters.values())]

    def rows(self, result_id: str) -> list[Row]:
        """The rows of a result, in the order and with the values they were stored with.

        Raises:
            UnknownNameError: there is no such result.
        """
        with in_words(self.path):
            found = self._select(f"SELECT {ROW_COLUMNS} FROM rows WHERE result = ? ORDER BY position", result_id)
            if not found:
                raise self._unknown("results", result_id)
            return [self._row(*row) for row in found]

    # --- curves -------------------------------------------------------------------------------

    def add_curves(self, run_id: str, points: Iterable[Point]) -> None:
        """Add points to the training curves of a run; a step that is there already is overwritten.

        Raises:
            LedgerError: there is no such run.
        """
        cells = [(run_id, name, int(step), float(value)) for name, step, value in points]
        with self._writing():
            self._connection.executemany("INSERT OR REPLACE INTO curves VALUES (?, ?, ?, ?)", cells)

    def curves(self, run_id: str) -> list[Point]:
        """The points of a run's curves, by name and step; a value that was not a number comes back as NaN."""
        query = "SELECT name, step, value FROM curves WHERE run = ? ORDER BY name, step"
        with in_words(self.path):
            found = self._select(query, run_id)
        return [(name, step, math.nan if value is None else value) for name, step, value in found]

    # --- below --------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction, its errors in words."""
        if self.read_only:
            raise LedgerError("the ledger was opened read-only", where=str(self.path), mend="open it for writing")
        with in_words(self.path), transaction(self._connection):
            yield

    def _select(self, query: str, *values: Any) -> list[Any]:
        return self._connection.execute(query, values).fetchall()

    def _unknown(self, table: str, name: str) -> UnknownNameError:
        known = [row[0] for row in self._select(f"SELECT id FROM {table}")]
        hint = nearest(name, known) if len(known) <= 20 or name else f"`keeps runs` lists all {len(known)}"
        return UnknownNameError(f'there is no {table[:-1]} "{name}"', where=str(self.path), mend=hint)

    def _run(self, cells: Sequence[Any]) -> RunRecord:
        values = dict(zip(RUN_FIELDS, cells, strict=True))
        return RunRecord(**{name: self._json(cell) if name in JSON_FIELDS else cell for name, cell in values.items()})

    def _row(self, id: str, group: str, prompt: str, expected: str, answer: str, correct: int, *rest: Any) -> Row:  # noqa: A002
        score, logprob, kind, details = rest
        return Row(id, group, prompt, expected, answer, bool(correct), score, logprob, kind, self._json(details))

    def _json(self, text: str) -> Any:
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            mend = "move the file away and run again: runs keep their own files"
            raise LedgerError(f"the ledger is damaged ({error})", where=str(self.path), mend=mend) from None

    def _cell(self, name: str, value: Any) -> Any:
        return self._dump(value, name) if name in JSON_FIELDS else value

    def _dump(self, value: Any, where: str) -> str:
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True)
        except (TypeError, ValueError) as error:
            raise LedgerError(f"not storable as JSON ({error})", where=where, mend="use JSON types only") from None

    def _row_cells(self, row: Row) -> tuple[Any, ...]:
        if math.isnan(row.score) or (row.logprob is not None and math.isnan(row.logprob)):
            mend = "the model has diverged: lower the learning rate and train again"
            raise LedgerError("the score is not a number", where=f"{row.group}, {row.id}", mend=mend)
        details = self._dump(row.details, f"details of {row.group}, {row.id}")
        scores = (int(row.correct), float(row.score), None if row.logprob is None else float(row.logprob))
        return (row.id, row.group, row.prompt, row.expected, row.answer, *scores, row.kind, details)
