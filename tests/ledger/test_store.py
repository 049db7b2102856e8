from __future__ import annotations

import math
import os
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keeps.contracts import Row
from keeps.errors import LedgerError, StorageError, UnknownNameError
from keeps.ledger import Ledger, RunRecord
from keeps.ledger.schema import SCHEMA_VERSION

PROBE: dict[str, Any] = {"subject_name": "a model", "probe": "world", "probe_fingerprint": "p1"}
RUN = RunRecord("corda-1a2b", "adapt", "corda", "smollm2-135m", "base", created="2025-01-01T00:00:00+00:00")


def row(name: str, **changes: Any) -> Row:
    return replace(Row(name, "keep: capital", "The capital of Norway is", "Oslo", "Oslo", True, 1.0, -0.25), **changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keeps.db"


def test_rows_come_back_as_they_were_put_in(path: Path, rows_before: list[Row]) -> None:
    with Ledger.open(path) as ledger:
        result = ledger.add_result(subject="m", rows=rows_before, seconds=1.5, **PROBE)
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.rows(result) == rows_before
        found = ledger.find_result("m", "p1")
        assert found is not None
        assert (found.id, found.probe, found.seconds) == (result, "world", 1.5)
        assert ledger.find_result("m", "p2") is None


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ROWS = st.builds(
    Row,
    id=TEXT,
    group=TEXT,
    prompt=TEXT,
    expected=TEXT,
    answer=TEXT,
    correct=st.booleans(),
    score=st.floats(allow_nan=False),
    logprob=st.none() | st.floats(allow_nan=False),
    kind=st.sampled_from(["fact", "choice", "text"]),
    details=st.dictionaries(TEXT, VALUES, max_size=3),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROWS, min_size=1, max_size=6, unique_by=lambda item: (item.group, item.id)), number=st.integers())
def test_any_text_and_number_survives(path: Path, rows: list[Row], number: int) -> None:
    with Ledger.open(path) as ledger:
        ledger._connection.execute("DELETE FROM results")
        result = ledger.add_result(subject=str(number), rows=rows, **PROBE)
        assert ledger.rows(result) == rows


def test_the_same_model_probed_the_same_way_is_stored_once(path: Path) -> None:
    with Ledger.open(path) as ledger:
        first = ledger.add_result(subject="m", rows=[row("1")], **PROBE)
        assert ledger.add_result(subject="m", rows=[row("2")], **PROBE) == first
        assert ledger.add_result(subject="n", rows=[row("2")], **PROBE) != first
        assert [item.id for item in ledger.rows(first)] == ["1"]
        assert len(ledger.results(probe="world")) == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "without rows"),
        ([row("1"), row("1")], "share group and id"),
        ([row("1", score=math.nan)], "not a number"),
        ([row("1", logprob=math.nan)], "not a number"),
        ([row("1", details={"x": object()})], "JSON"),
        ([row("1", details={"x": math.inf})], "JSON"),
        ([row("1", answer="\ud800")], "broken character"),
    ],
)
def test_a_result_that_cannot_be_stored_leaves_nothing(path: Path, rows: list[Row], message: str) -> None:
    with Ledger.open(path) as ledger:
        with pytest.raises(LedgerError, match=message):
            ledger.add_result(subject="m", rows=rows, **PROBE)
        assert ledger.results() == []


def test_runs_are_found_by_id_by_unique_prefix_and_by_filter(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.add_run(RUN)
        ledger.add_run(
            replace(RUN, id="corda-1zzz", method="lora", settings={"rank": 16, "targets": ["q", "k"]}, seed=3)
        )
        assert ledger.find_run("corda-1a2b") == RUN
        assert ledger.find_run("corda-1z").settings == {"rank": 16, "targets": ["q", "k"]}
        assert [run.id for run in ledger.runs(method="lora", status="running")] == ["corda-1zzz"]
        assert ledger.runs(status="done") == []
        with pytest.raises(UnknownNameError, match=r"begins 2 run ids.*corda-1a2b, corda-1zzz"):
            ledger.find_run("corda-1")
        with pytest.raises(UnknownNameError, match='did you mean "corda-1a2b"'):
            ledger.find_run("corda-1a2c")
        with pytest.raises(UnknownNameError):
            ledger.find_run("")
        with pytest.raises(UnknownNameError):
            ledger.find_run("corda-1a2b%")
        with pytest.raises(UnknownNameError, match="filtered"):
            ledger.runs(methods="lora")


def test_a_run_is_updated_and_frames_two_results(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.add_run(RUN)
        result = ledger.add_result(subject="m", rows=[row("1")], **PROBE)
        now = ledger.update_run(RUN.id, status="done", after_result=result, measures={"train_seconds": 12.5})
        assert (
            now
            == ledger.find_run(RUN.id)
            == replace(RUN, status="done", after_result=result, measures={"train_seconds": 12.5})
        )
        with pytest.raises(LedgerError, match="already"):
            ledger.add_run(RUN)
        with pytest.raises(LedgerError, match="refuses"):
            ledger.update_run(RUN.id, before_result="no such result")
        with pytest.raises(UnknownNameError, match="no field"):
            ledger.update_run(RUN.id, colour="blue")
        with pytest.raises(UnknownNameError, match="there is no run"):
            ledger.update_run("other", status="done")


def test_curves_can_be_added_again_after_a_resume(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.add_run(RUN)
        ledger.add_curves(RUN.id, [("loss", 1, 3.0), ("loss", 2, 2.0)])
        ledger.add_curves(RUN.id, [("loss", 2, 2.0), ("loss", 3, math.nan)])
        points = ledger.curves(RUN.id)
        assert points[:2] == [("loss", 1, 3.0), ("loss", 2, 2.0)]
        assert math.isnan(points[2][2])
        with pytest.raises(LedgerError):
            ledger.add_curves("no such run", [("loss", 1, 3.0)])


# --- the file ---------------------------------------------------------------------------------


def test_reading_changes_no_byte_and_refuses_to_write(path: Path) -> None:
    with Ledger.open(path) as ledger:
        result = ledger.add_result(subject="m", rows=[row("1")], **PROBE)
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.rows(result)
        with pytest.raises(LedgerError, match="read-only"):
            ledger.add_run(RUN)
        with pytest.raises(sqlite3.OperationalError):
            ledger._connection.execute("DELETE FROM rows")
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_reading_while_another_writes_sees_the_last_commit(path: Path) -> None:
    with Ledger.open(path) as writer, Ledger.open(path, read_only=True) as reader:
        with writer._writing():
            writer._connection.execute("INSERT INTO meta VALUES ('note', 'half')")
            assert reader.runs() == []
        writer.add_run(RUN)
        assert reader.runs() == [RUN]


def test_a_missing_ledger_is_not_made_by_reading(path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger"):
        Ledger.open(path, read_only=True)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("read_only", [True, False])
def test_another_schema_version_is_refused_and_left_alone(path: Path, read_only: bool) -> None:
    Ledger.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=rf"version {SCHEMA_VERSION + 1}.*use the version of keeps that wrote it"):
        Ledger.open(path, read_only=read_only)
    assert path.read_bytes() == before


@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_that_is_no_ledger_is_refused_and_left_alone(path: Path, read_only: bool) -> None:
    for content in (
        b"not a database at all, but long enough to be looked at" * 40,
        b"SQLite format 3\0" + b"\xff" * 4000,
    ):
        path.write_bytes(content)
        with pytest.raises(LedgerError, match="damaged"):
            Ledger.open(path, read_only=read_only)
        assert path.read_bytes() == content


@pytest.mark.parametrize("read_only", [True, False])
def test_another_programs_database_is_refused(path: Path, read_only: bool) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()
    with pytest.raises(LedgerError, match="not a ledger of keeps"):
        Ledger.open(path, read_only=read_only)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("recipes",)]
    connection.close()


def test_a_damaged_page_is_an_error_in_words_and_the_file_stays(path: Path, rows_before: list[Row]) -> None:
    with Ledger.open(path) as ledger:
        result = ledger.add_result(subject="m", rows=rows_before, **PROBE)
    content = bytearray(path.read_bytes())
    content[12288:] = os.urandom(len(content) - 12288)
    path.write_bytes(bytes(content))
    with pytest.raises(LedgerError, match=r"damaged.*move the file away"), Ledger.open(path, read_only=True) as ledger:
        ledger.rows(result)
    assert path.read_bytes() == bytes(content)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write_can_still_be_read(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.add_run(RUN)
    path.parent.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with Ledger.open(path, read_only=True) as ledger:
            assert ledger.runs() == [RUN]
        with pytest.raises(StorageError):
            Ledger.open(path.with_name("new.db"))
    finally:
        path.parent.chmod(stat.S_IRWXU)


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written or opened"):
        Ledger.open(tmp_path / "missing" / "keeps.db")
