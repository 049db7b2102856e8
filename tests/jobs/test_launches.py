"""One job on two processes: the result of one, written once, and an error of one is an error of both."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.errors import InterruptedRunError, RecordError
from keeps.jobs import processes
from keeps.jobs.processes import from_main, is_main_process, own_device
from keeps.ledger.workspace import Workspace
from keeps.weights import load_tensors

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
SETTINGS = {"epochs": 4, "learning_rate": 1e-2}


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def on_two(commands: Any, words: list[str], folder: Path) -> list[int]:
    """Run a command on two processes that talk to each other; their exit codes."""
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    started = [
        commands.start(words, folder / f"output{rank}", RANK=str(rank), LOCAL_RANK=str(rank), **common)
        for rank in range(2)
    ]
    return [commands.wait(process) for process in started]


def assert_same_run(one: Path, two: Path, *, odd: float = 0.0) -> None:
    """Both workspaces hold one finished run with the same name and, to rounding, the same tensors.

    Of all elements a share ``odd`` may differ, but by less than ten steps of 1e-3.
    """
    [first], [second] = (list((workspace / "runs").iterdir()) for workspace in (one, two))
    assert first.name == second.name
    left, right = (load_tensors(folder / "adapter_model.safetensors") for folder in (first, second))
    assert left.keys() == right.keys()
    apart = {name: ~torch.isclose(tensor, right[name], rtol=1e-3, atol=2e-4) for name, tensor in left.items()}
    found = {name: int(flags.sum()) for name, flags in apart.items() if flags.any()}
    assert sum(found.values()) <= odd * sum(flags.numel() for flags in apart.values()), found
    assert all(float((left[name] - right[name]).abs().max()) < 1e-2 for name in found)
    with Workspace(two).ledger(read_only=True) as ledger:
        [run] = ledger.runs()
        assert run.status == "done"


def test_two_processes_give_the_run_of_one(commands: Any, small_job: Any, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert commands.run(small_job.words(one, **SETTINGS), tmp_path / "output") == 0
    words = small_job.words(two, **SETTINGS)
    assert on_two(commands, words, tmp_path) == [0, 0], (tmp_path / "output1").read_text()
    assert_same_run(one, two)
    assert on_two(commands, words, tmp_path) == [0, 0]
    said = [(tmp_path / f"output{rank}").read_text() for rank in range(2)]
    assert "not repeated" in said[0]
    assert said[1] == "", "one process of a launch speaks for all"


def test_an_error_of_the_main_process_reaches_the_other_one(commands: Any, small_job: Any, tmp_path: Path) -> None:
    words = small_job.words(tmp_path, **SETTINGS)
    commands.run(words, tmp_path / "output", KEEPS_TEST_DIE="before publish")
    assert on_two(commands, words, tmp_path) == [2, 2]
    said = [(tmp_path / f"output{rank}").read_text() for rank in range(2)]
    assert said[0] == said[1]
    assert said[0].startswith("keeps: error: this job was interrupted before it was done (")
    assert "\n" not in said[0].strip()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "corda", "full"])
def test_accelerate_launch_gives_the_run_of_one_process(
    commands: Any, small_job: Any, tmp_path: Path, method: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    settings: dict[str, Any] = {**small_job.settings, **SETTINGS}
    if method == "full":
        settings = {"epochs": 2, "batch_size": 8}
    if method == "corda":
        # AdamW turns a gradient that is rounding error alone into a step of the learning rate, and CorDA has such
        # gradients, of components that nothing uses: a few elements may go another way than in one process.
        settings["learning_rate"] = 1e-3
    results = {}
    for name, launcher in (("one", [sys.executable]), ("two", LAUNCHER)):
        port = ["--main_process_port", free_port()] if name == "two" else []
        arguments = [small_job.learn, small_job.keep, small_job.model, method, repr(settings), str(tmp_path / name)]
        command = [*launcher, *port, str(script), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=QUIET)
        assert done.returncode == 0, done.stderr[-3000:]
        results[name] = sorted(line for line in done.stdout.splitlines() if line.startswith("process"))
    [of_one] = results["one"]
    assert results["two"] == [of_one, of_one.replace("process 0", "process 1")], "each returns the same outcome"
    if method == "full":
        [folder] = (tmp_path / "two" / "runs").iterdir()
        assert (folder / "model.safetensors").exists()
    else:
        assert_same_run(tmp_path / "one", tmp_path / "two", odd=0.01 if method == "corda" else 0.0)


LAUNCHER = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
LAUNCHER += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
SCRIPT = """
import ast, os, sys
import keeps

learn, keep, model, method, settings, workspace = sys.argv[1:]
outcome = keeps.adapt(
    learn, keep, model=model, method=method, settings=ast.literal_eval(settings), workspace=workspace, device="cpu"
)
sizes = [(group.name, group.n) for group in outcome.diff.groups]
sys.stdout.write(f"process {os.environ.get('RANK', '0')} {outcome.run_id} {sizes}\\n")
"""


def test_one_process_asks_nobody() -> None:
    assert from_main(lambda: "here") == "here"
    assert is_main_process()


def pretend(monkeypatch: pytest.MonkeyPatch, rank: int, sent: list[Any]) -> None:
    """Be process ``rank`` of two; what is broadcast comes from and goes to ``sent``."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("LOCAL_RANK", str(rank))

    def broadcast(value: Any, device: str) -> Any:
        del device
        if rank == 0:
            sent.append(value)
        return sent[-1]

    monkeypatch.setattr(processes, "_broadcast", broadcast)


def test_only_the_main_process_does_what_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    pretend(monkeypatch, 0, sent)
    assert from_main(lambda: [1, 2]) == [1, 2]
    pretend(monkeypatch, 1, sent)
    assert from_main(lambda: pytest.fail("the other process did it")) == [1, 2]


@pytest.mark.parametrize("bug", [False, True])
def test_an_error_is_raised_everywhere(monkeypatch: pytest.MonkeyPatch, bug: bool) -> None:
    sent: list[Any] = []

    def fail() -> None:
        raise ZeroDivisionError("a bug") if bug else RecordError("bad row", where="line 3", mend="mend it")

    pretend(monkeypatch, 0, sent)
    with pytest.raises(ZeroDivisionError if bug else RecordError):
        from_main(fail)
    pretend(monkeypatch, 1, sent)
    with pytest.raises(InterruptedRunError if bug else RecordError, match="ZeroDivisionError" if bug else "line 3"):
        from_main(lambda: None)


def test_each_process_has_a_graphics_card_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 1, [])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert own_device() == "cuda:1"
    assert own_device("cuda:0") == "cuda:0"
    assert own_device("cpu") == "cpu"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert own_device() == "cpu"
