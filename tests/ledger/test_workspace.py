from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from keeps.errors import InterruptedRunError, LedgerError, StorageError
from keeps.ledger import Workspace

HOLDER = """
import sys, time
from keeps.ledger.workspace import Workspace
with Workspace(sys.argv[1]).lock("r1"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_folder_comes_from_the_argument_then_the_environment_then_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KEEPS_WORKSPACE", raising=False)
    assert Workspace().path == Path("keeps-runs")
    monkeypatch.setenv("KEEPS_WORKSPACE", str(tmp_path / "other"))
    assert Workspace().path == tmp_path / "other"
    assert Workspace("mine").path == Path("mine")


def test_nothing_is_made_before_something_is_written(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "deep" / "work")
    assert workspace.run_folder("r1") == tmp_path / "deep" / "work" / "runs" / "r1"
    assert workspace.partial_folder("r1").name == "r1.partial"
    with pytest.raises(LedgerError, match="there is no ledger"):
        workspace.ledger(read_only=True)
    assert list(tmp_path.iterdir()) == []
    with workspace.ledger() as ledger:
        assert ledger.runs() == []
    assert workspace.database.is_file()
    assert workspace.runs.is_dir()


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "a\\b", ".hidden", "a\0b"])
def test_an_id_cannot_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match="cannot be the name"):
        Workspace(tmp_path).run_folder(name)
    with pytest.raises(StorageError, match="cannot be the name"), Workspace(tmp_path).lock(name):
        pass


def test_a_file_in_its_place_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "work").write_text("a file")
    with pytest.raises(StorageError, match="not writable"):
        Workspace(tmp_path / "work").ledger()
    assert (tmp_path / "work").read_text() == "a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write_is_a_storage_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="not writable"):
            Workspace(tmp_path / "work").ledger()
    finally:
        tmp_path.chmod(0o700)


def test_a_lock_is_refused_while_another_process_holds_it_and_free_after_its_kill(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(InterruptedRunError, match=rf"another process \(number {holder.pid}\)"),
            workspace.lock("r1"),
        ):
            pass
        with workspace.lock("r2"):  # another run is free
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate(timeout=10)
    with workspace.lock("r1"):
        pass


def test_a_lock_is_free_after_an_error_and_not_taken_twice(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(ZeroDivisionError), workspace.lock("r1"):
        raise ZeroDivisionError
    with workspace.lock("r1"), pytest.raises(InterruptedRunError), workspace.lock("r1"):
        pass
