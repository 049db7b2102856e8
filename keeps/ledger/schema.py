"""The tables of the ledger, and how its file is opened: version checks, WAL, errors in words.

SQLite's write-ahead log lets reports read while runs write; ``BEGIN IMMEDIATE`` takes the write
lock at once, so that two writers queue (https://sqlite.org/wal.html, https://sqlite.org/lang_transaction.html).
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from keeps.errors import LedgerError, StorageError

SCHEMA_VERSION = 1  # raise it with any change of the tables; a ledger of another version is refused
BUSY_SECONDS = 30.0  # how long a writer waits for another one

TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE results (
        id TEXT PRIMARY KEY, subject TEXT NOT NULL, subject_name TEXT NOT NULL, probe TEXT NOT NULL,
        probe_fingerprint TEXT NOT NULL, created TEXT NOT NULL, seconds REAL NOT NULL,
        UNIQUE (subject, probe_fingerprint)
    )""",
    """CREATE TABLE rows (
        result TEXT NOT NULL REFERENCES results (id) ON DELETE CASCADE, position INTEGER NOT NULL,
        id TEXT NOT NULL, "group" TEXT NOT NULL, prompt TEXT NOT NULL, expected TEXT NOT NULL, answer TEXT NOT NULL,
        correct INTEGER NOT NULL, score REAL NOT NULL, logprob REAL, kind TEXT NOT NULL, details TEXT NOT NULL,
        PRIMARY KEY (result, position)
    ) WITHOUT ROWID""",
    """CREATE TABLE runs (
        id TEXT PRIMARY KEY, kind TEXT NOT NULL, method TEXT NOT NULL, model TEXT NOT NULL,
        model_fingerprint TEXT NOT NULL, learn TEXT NOT NULL, keep TEXT NOT NULL, data_fingerprints TEXT NOT NULL,
        settings TEXT NOT NULL, seed INTEGER NOT NULL, status TEXT NOT NULL, created TEXT NOT NULL,
        command TEXT NOT NULL, versions TEXT NOT NULL, measures TEXT NOT NULL, folder TEXT NOT NULL,
        before_result TEXT REFERENCES results (id), after_result TEXT REFERENCES results (id)
    )""",
    """CREATE TABLE curves (
        run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE, name TEXT NOT NULL, step INTEGER NOT NULL,
        value REAL, PRIMARY KEY (run, name, step)
    ) WITHOUT ROWID""",
    "CREATE INDEX runs_by_method ON runs (method, created)",
)


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open the ledger at ``path``; unless ``read_only``, make it where there is none.

    Raises:
        LedgerError: it is missing (read only), damaged, of another version, or no ledger at all.
        StorageError: the folder is not writable or the disk is full.
    """
    if read_only and not path.is_file():
        raise LedgerError("there is no ledger", where=str(path), mend="name the workspace of a run, or run a job first")
    with in_words(path):
        connection = _connect_reader(path) if read_only else _connect_writer(path)
        try:
            if not read_only and _version(connection) == 0:
                _create(connection, path)
            _check_version(connection, path)
            connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
    return connection


def _connect_writer(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _connect_reader(path: Path) -> sqlite3.Connection:
    address = f"file:{quote(str(path.resolve()))}?mode=ro"
    log = path.with_name(path.name + "-wal")
    if not os.access(path.parent, os.W_OK) and not log.exists():
        # A reader of a write-ahead log needs its index file; where none can be made, nobody writes either.
        address += "&immutable=1"
    return sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None)


def _create(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables in one transaction; whoever comes second finds them made."""
    _use_write_ahead_log(connection)
    with transaction(connection):
        if _version(connection) != 0:
            return
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise _foreign(path)
        for statement in TABLES:
            connection.execute(statement)
        connection.execute("INSERT INTO meta VALUES ('application', 'keeps'), ('schema', ?)", (str(SCHEMA_VERSION),))
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    deadline = time.monotonic() + BUSY_SECONDS
    while True:  # the switch of the journal does not wait for a busy file by itself
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _version(connection: sqlite3.Connection) -> int:
    return connection.execute("PRAGMA user_version").fetchone()[0]


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    found = _version(connection)
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if found == 0 or "meta" not in tables:
        raise _foreign(path)
    noted = dict(connection.execute("SELECT key, value FROM meta WHERE key IN ('application', 'schema')"))
    if noted.get("application") != "keeps":
        raise _foreign(path)
    if found != SCHEMA_VERSION or noted.get("schema") != str(SCHEMA_VERSION):
        raise LedgerError(
            f"this ledger has schema version {found}, this version of keeps reads version {SCHEMA_VERSION}",
            where=str(path),
            mend="use the version of keeps that wrote it, or name another workspace; the file was left as it is",
        )


def _foreign(path: Path) -> LedgerError:
    return LedgerError(
        "this file is a database, but not a ledger of keeps", where=str(path), mend="name another workspace"
    )


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing: takes the write lock at once, commits at the end, rolls back on any error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours, each with the mend; the file itself is never touched."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise LedgerError(
            f"a text holds a broken character ({error.reason})", where=str(path), mend="write the data as UTF-8"
        ) from None
    except sqlite3.Error as error:
        text, where = str(error), str(path)
        if "full" in text:
            raise StorageError("the disk is full", where=where, mend="free some space and run again") from None
        if "locked" in text or "busy" in text:
            mend = "wait for the other process, then run again"
            raise LedgerError("another process has been writing for too long", where=where, mend=mend) from None
        if "readonly" in text or "unable to open" in text or "disk I/O" in text:
            mend = "give yourself the right to write there, or name another workspace with --workspace"
            raise StorageError(f"the ledger cannot be written or opened ({text})", where=where, mend=mend) from None
        if isinstance(error, sqlite3.IntegrityError):
            raise LedgerError(
                f"the ledger refuses this record ({text})", where=where, mend="store what it names first"
            ) from None
        mend = "move the file away and run again: runs keep their own files, the next run makes a new ledger"
        raise LedgerError(f"the ledger is damaged ({text})", where=where, mend=mend) from None
