"""Runs that are killed at any moment, and runs on two processes, end where one undisturbed process ends."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.weights import load_tensors

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
WORKER = Path(__file__).with_name("process_worker.py")


def job_of(folder: Path, kind: str = "lora", **settings: Any) -> dict[str, Any]:
    values = {"epochs": 4, "batch_size": 4, "checkpoint_every": 0, "learning_rate": 0.01, **settings}
    out = str(folder / "out.safetensors")
    return {"folder": str(folder / "run"), "out": out, "kind": kind, "dropout": 0.1, "settings": values}


def finish(workers: Any, job: dict[str, Any]) -> bytes:
    assert workers.wait(workers.start(job)) == 0
    return Path(job["out"]).read_bytes()


@pytest.fixture(scope="module")
def undisturbed(workers: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, float]:
    """The trained tensors of a run that nobody kills, as bytes, and its seconds."""
    folder = tmp_path_factory.mktemp("undisturbed")
    first = finish(workers, job_of(folder / "first"))  # its time holds the start of the worker
    start = time.monotonic()
    second = finish(workers, job_of(folder / "second"))
    assert first == second
    return second, time.monotonic() - start


def kill_and_resume(workers: Any, folder: Path, undisturbed: tuple[bytes, float], kills: int) -> None:
    """Kills runs at random moments until as many of them as asked died before their end.

    A run that ends before its moment says that the machine is faster now than when the undisturbed run was timed.
    """
    expected, seconds = undisturbed
    moments, killed = random.Random(kills), 0
    for attempt in range(20 * kills):
        job = job_of(folder / str(attempt))
        delay = moments.uniform(0, 0.95 * seconds)
        process = workers.start(job)
        time.sleep(delay)
        os.kill(process, signal.SIGKILL)
        if workers.wait(process) != -signal.SIGKILL:
            seconds = min(seconds, delay)
            continue
        killed += 1
        assert finish(workers, {**job, "resume": True}) == expected, f"killed after {delay:.3f} s of {seconds:.3f}"
        left = sorted(path.name for path in (folder / str(attempt) / "run" / "checkpoint").iterdir())
        assert len(left) == 1, left
        if killed == kills:
            return
    raise AssertionError(f"only {killed} of {20 * kills} runs died before their end")


def test_a_run_killed_at_random_moments_resumes_to_the_same_bytes(
    workers: Any, tmp_path: Path, undisturbed: tuple[bytes, float]
) -> None:
    kill_and_resume(workers, tmp_path, undisturbed, kills=4)


@pytest.mark.slow
def test_a_run_killed_at_twenty_random_moments_resumes_to_the_same_bytes(
    workers: Any, tmp_path: Path, undisturbed: tuple[bytes, float]
) -> None:
    kill_and_resume(workers, tmp_path, undisturbed, kills=20)


def test_a_run_killed_again_and_again_still_ends_with_the_same_bytes(
    workers: Any, tmp_path: Path, undisturbed: tuple[bytes, float]
) -> None:
    expected, seconds = undisturbed
    job = {**job_of(tmp_path), "resume": True}
    for _ in range(4):
        process = workers.start(job)
        time.sleep(seconds / 4)
        os.kill(process, signal.SIGKILL)
        workers.wait(process)
    assert finish(workers, job) == expected


@pytest.mark.parametrize("rename", [1, 2, 7])
def test_death_between_writing_and_renaming_a_checkpoint_costs_at_most_that_checkpoint(
    workers: Any, tmp_path: Path, undisturbed: tuple[bytes, float], rename: int
) -> None:
    job = job_of(tmp_path)
    assert workers.wait(workers.start({**job, "die_at_rename": rename})) == -signal.SIGKILL
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoint").iterdir())
    assert [name for name in names if not name.endswith(".partial")] == [
        f"step-{step:08d}.safetensors" for step in [rename - 1] if step
    ]
    assert len([name for name in names if name.endswith(".partial")]) == 1
    assert finish(workers, {**job, "resume": True}) == undisturbed[0]
    assert len(list((tmp_path / "run" / "checkpoint").iterdir())) == 1, "what was left half written is removed"


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def assert_close(first: Path, second: Path) -> None:
    left, right = load_tensors(first), load_tensors(second)
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(
            tensor, right[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def undropped(folder: Path, kind: str) -> dict[str, Any]:
    job = job_of(folder, kind, epochs=2, batch_size=16, learning_rate=1e-3)
    return {**job, "dropout": 0.0}  # with dropout each process draws its own


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_two_processes_give_the_result_of_one(workers: Any, tmp_path: Path, kind: str) -> None:
    one, two = undropped(tmp_path / "one", kind), undropped(tmp_path / "two", kind)
    finish(workers, one)
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    started = [workers.start(two, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in range(2)]
    assert [workers.wait(process) for process in started] == [0, 0]
    assert_close(Path(one["out"]), Path(two["out"]))


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_two_processes_that_shard_the_model_give_the_result_of_one(workers: Any, tmp_path: Path, kind: str) -> None:
    one, two = undropped(tmp_path / "one", kind), undropped(tmp_path / "two", kind)
    finish(workers, one)
    assert sharded(workers, two) == [0, 0]
    assert_close(Path(one["out"]), Path(two["out"]))
    (stored,) = (tmp_path / "two" / "run" / "checkpoint").iterdir()
    (expected,) = (tmp_path / "one" / "run" / "checkpoint").iterdir()
    assert_close(expected, stored)  # whole tensors, which any number of processes can continue from


def test_a_sharded_run_continues_one_that_was_killed_on_one_process(workers: Any, tmp_path: Path) -> None:
    one, two = undropped(tmp_path / "one", "full"), undropped(tmp_path / "two", "full")
    finish(workers, one)
    assert workers.wait(workers.start({**two, "die_at_rename": 4})) == -signal.SIGKILL
    assert sharded(workers, {**two, "resume": True}) == [0, 0]
    assert_close(Path(one["out"]), Path(two["out"]))


def sharded(workers: Any, job: dict[str, Any]) -> list[int]:
    """The exit states of two processes that train a sharded model together."""
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    common |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    started = [workers.start(job, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in range(2)]
    return [workers.wait(process) for process in started]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_accelerate_launch_on_two_processes_gives_the_result_of_one(workers: Any, tmp_path: Path, kind: str) -> None:
    one, two = undropped(tmp_path / "one", kind), undropped(tmp_path / "two", kind)
    finish(workers, one)
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [*launcher, "--main_process_port", free_port(), str(WORKER), "run", json.dumps(two)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_close(Path(one["out"]), Path(two["out"]))


def test_two_processes_continue_together_when_the_main_one_is_asked_to(workers: Any, tmp_path: Path) -> None:
    whole, cut = undropped(tmp_path / "whole", "lora"), undropped(tmp_path / "cut", "lora")
    pair = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}

    def both(job: dict[str, Any], resume: tuple[bool, bool]) -> list[int]:
        env = {**pair, "MASTER_PORT": free_port()}
        started = [
            workers.start({**job, "resume": wanted}, RANK=str(rank), LOCAL_RANK=str(rank), **env)
            for rank, wanted in enumerate(resume)
        ]
        return [workers.wait(process) for process in started]

    assert both(whole, (False, False)) == [0, 0]
    assert both(cut, (False, False)) == [0, 0]
    steps = [path.name for path in (tmp_path / "cut" / "run" / "checkpoint").iterdir()]
    assert both(cut, (True, False)) == [0, 0]  # finished: the values come from the checkpoint
    assert [path.name for path in (tmp_path / "cut" / "run" / "checkpoint").iterdir()] == steps
    assert Path(cut["out"]).read_bytes() == Path(whole["out"]).read_bytes()
