"""The ledger under several processes: two writers at once, and writers that are killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from keeps.ledger import Ledger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keeps.db"


WRITER = """
import sys
from keeps.contracts import Row
from keeps.ledger.records import RunRecord
from keeps.ledger.store import Ledger

name, count, size = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    with Ledger.open(sys.argv[1]) as ledger:
        rows = [Row(str(i), "g", "p", "e", "a" * 40, True, 1.0) for i in range(size)]
        result = ledger.add_result(
            subject=f"{name}{number}", subject_name=name, probe="w", probe_fingerprint="p", rows=rows
        )
        ledger.add_run(RunRecord(f"{name}{number}", "adapt", "lora", "m", "f", after_result=result))
        print(result, flush=True)
"""


@pytest.fixture
def writer(path: Path) -> Callable[..., subprocess.Popen[str]]:
    def start(name: str, count: int, size: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WRITER, str(path), name, str(count), str(size)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        return process

    return start


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def test_two_processes_write_at_once_and_lose_nothing(path: Path, writer: Callable[..., subprocess.Popen[str]]) -> None:
    processes = [writer(name, 25, 40) for name in ("a", "b")]
    for process in processes:
        go(process)  # both make the file and its tables together
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    with Ledger.open(path, read_only=True) as ledger:
        assert {run.id for run in ledger.runs()} == {f"{name}{i}" for name in "ab" for i in range(25)}
        assert all(len(ledger.rows(result.id)) == 40 for result in ledger.results())


def test_a_kill_leaves_all_rows_of_a_result_or_none(path: Path, writer: Callable[..., subprocess.Popen[str]]) -> None:
    size, kept = 5000, 0
    for number, delay in enumerate((0.0, 0.01, 0.03, 0.06, 0.1)):
        process = writer(f"k{number}-", 1000, size)
        go(process)
        assert process.stdout
        process.stdout.readline()  # in the middle of work
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        with Ledger.open(path) as ledger:
            counts = [len(ledger.rows(result.id)) for result in ledger.results()]
            assert set(counts) == {size}
            assert len(counts) > kept
            kept = len(counts)
            orphans = "SELECT count(*) FROM rows WHERE result NOT IN (SELECT id FROM results)"
            assert ledger._connection.execute(orphans).fetchone() == (0,)
            assert ledger._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
