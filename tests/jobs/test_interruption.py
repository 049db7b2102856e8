"""`keeps adapt` as a real process: killed at any moment it continues to the same bytes, and loses nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from keeps.contracts import ChangeRecord
from keeps.ledger.workspace import Workspace
from keeps.models.changes import read_factors

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
METHODS = ("lora", "corda")
SLOW = {"epochs": 5, "checkpoint_every": 0}  # slow enough to be hit in the middle of training


@dataclass(frozen=True)
class Finished:
    """A run that nobody disturbed."""

    folder: Path
    tensors: bytes
    rows: list[Any]
    curves: list[Any]
    seconds: float


def contents(workspace: Path) -> tuple[list[Any], list[Any]]:
    """The rows of the only run, before and after, and its curves."""
    with Workspace(workspace).ledger(read_only=True) as ledger:
        [run] = ledger.runs()
        assert run.status == "done"
        assert run.before_result
        assert run.after_result
        return [*ledger.rows(run.before_result), *ledger.rows(run.after_result)], ledger.curves(run.id)


def finished_folder(workspace: Path) -> Path:
    [folder] = (workspace / "runs").iterdir()
    assert not folder.name.endswith(".partial")
    return folder


@pytest.fixture(scope="module")
def undisturbed(commands: Any, small_job: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Finished]:
    """The run of a method that nobody kills, made when first asked for."""

    @cache
    def finished(method: str) -> Finished:
        workspace = tmp_path_factory.mktemp("undisturbed")
        start = time.monotonic()
        words = small_job.words(workspace, method=method, **SLOW)
        assert commands.run(words, workspace / "output") == 0, (workspace / "output").read_text()
        seconds = time.monotonic() - start
        folder = finished_folder(workspace)
        tensors = (folder / "adapter_model.safetensors").read_bytes()
        return Finished(folder, tensors, *contents(workspace), seconds)

    return finished


def check_no_half_folder(workspace: Path) -> None:
    """Whatever bears a final name is complete, at any moment."""
    for folder in (workspace / "runs").iterdir() if (workspace / "runs").exists() else ():
        if not folder.name.endswith(".partial"):
            ChangeRecord.read(folder)
            assert read_factors(folder)
            assert (folder / "README.md").exists()
            json.loads((folder / "curves.json").read_text())


def kill_until_done(
    commands: Any, small_job: Any, folder: Path, wanted: Finished, *, method: str, kills: int, live: int, seed: int
) -> None:
    """Start, kill at random moments, and resume, ``kills`` times, and on until ``live`` kills found a live process."""
    moments, killed, number = random.Random(seed), 0, 0
    while number < kills or killed < live:
        assert number < 20 * kills, f"only {killed} kills found a live process"
        workspace = folder / str(number // 4)  # four kills a job, then the next one
        words = small_job.words(workspace, "--resume", method=method, **SLOW)
        workspace.mkdir(parents=True, exist_ok=True)
        process = commands.start(words, workspace / "output")
        time.sleep(moments.uniform(0, 0.95 * wanted.seconds))
        os.kill(process, signal.SIGKILL)
        killed += commands.wait(process) == -signal.SIGKILL
        check_no_half_folder(workspace)
        number += 1
    for workspace in folder.iterdir():
        words = small_job.words(workspace, "--resume", method=method, **SLOW)
        assert commands.run(words, workspace / "output") == 0, (workspace / "output").read_text()
        check_same(workspace, wanted)


def check_same(workspace: Path, wanted: Finished) -> None:
    folder = finished_folder(workspace)
    assert folder.name == wanted.folder.name
    assert (folder / "adapter_model.safetensors").read_bytes() == wanted.tensors
    assert (folder / "adapter_config.json").read_bytes() == (wanted.folder / "adapter_config.json").read_bytes()
    assert contents(workspace) == (wanted.rows, wanted.curves)
    assert {path.name for path in folder.iterdir()} == {path.name for path in wanted.folder.iterdir()}


def test_a_job_killed_at_random_moments_ends_in_the_same_bytes_and_rows(
    commands: Any, small_job: Any, undisturbed: Callable[[str], Finished], tmp_path: Path
) -> None:
    once = undisturbed("lora")
    kill_until_done(commands, small_job, tmp_path, once, method="lora", kills=3, live=1, seed=5)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_job_killed_at_twenty_random_moments_ends_in_the_same_bytes_and_rows(
    commands: Any, small_job: Any, undisturbed: Callable[[str], Finished], tmp_path: Path, method: str
) -> None:
    once = undisturbed(method)
    kill_until_done(commands, small_job, tmp_path, once, method=method, kills=20, live=10, seed=7)


def test_death_between_the_final_name_and_the_ledger_needs_no_word(
    commands: Any, small_job: Any, undisturbed: Callable[[str], Finished], tmp_path: Path
) -> None:
    words = small_job.words(tmp_path, **SLOW)
    assert commands.run(words, tmp_path / "output", KEEPS_TEST_DIE="after publish") == -signal.SIGKILL
    check_no_half_folder(tmp_path)
    assert commands.run(words, tmp_path / "output") == 0, (tmp_path / "output").read_text()
    check_same(tmp_path, undisturbed("lora"))


def test_death_before_the_final_name_is_told_to_the_next_process_and_continued(
    commands: Any, small_job: Any, undisturbed: Callable[[str], Finished], tmp_path: Path
) -> None:
    words = small_job.words(tmp_path, **SLOW)
    assert commands.run(words, tmp_path / "output", KEEPS_TEST_DIE="before publish") == -signal.SIGKILL
    check_no_half_folder(tmp_path)
    with Workspace(tmp_path).ledger(read_only=True) as ledger:
        [run] = ledger.runs()
        assert run.status == "running"
        assert ledger.rows(run.before_result or "")
    assert commands.run(words, tmp_path / "output") == 2
    said = (tmp_path / "output").read_text()
    assert "--resume" in said
    assert "--restart" in said
    [partial] = (tmp_path / "runs").iterdir()
    (partial / ".start.safetensors.12-ca59fd2e.partial").write_bytes(b"half")  # killed in the middle of a file
    assert commands.run([*words, "--resume"], tmp_path / "output") == 0
    check_same(tmp_path, undisturbed("lora"))


def test_a_second_process_is_refused_and_the_first_one_undisturbed(
    commands: Any, small_job: Any, undisturbed: Callable[[str], Finished], tmp_path: Path
) -> None:
    words = small_job.words(tmp_path, **SLOW)
    first = commands.start(words, tmp_path / "first", KEEPS_TEST_DIE="wait publish")
    wait_for(tmp_path / "waiting")
    assert commands.run(words, tmp_path / "second") == 2
    said = (tmp_path / "second").read_text()
    assert "is under way in another process" in said
    assert "Traceback" not in said
    (tmp_path / "go").write_text("")
    assert commands.wait(first) == 0, (tmp_path / "first").read_text()
    check_same(tmp_path, undisturbed("lora"))


def wait_for(path: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never appeared"
        time.sleep(0.02)
