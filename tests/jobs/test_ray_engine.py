"""Runs side by side on a Ray cluster: the ids, rows and table of the local engine, whoever dies meanwhile."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keeps.errors import KeepsError
from keeps.jobs.comparing import compare
from keeps.ledger.comparison import Comparison
from keeps.ledger.workspace import Workspace

pytest.importorskip("ray", reason="the extra ray is not installed")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
METHODS = "lora,corda:mode=ipm"
STEPS = {"rank": 2, "epochs": 12, "batch_size": 2, "checkpoint_every": 0}


class Heard:
    """Progress that remembers its messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def task(self, *args: Any, **values: Any) -> Any:
        from keeps.contracts import SilentProgress

        return SilentProgress().task(*args, **values)


@pytest.fixture(scope="module", autouse=True)
def little_text() -> None:
    """Nothing: workers would not see what is changed in this process for the other tests of this room."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of this machine with two cores, whatever it has, kept for the tests of this file."""
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, logging_level=40)
    yield ray
    ray.shutdown()


def run(small_job: Any, workspace: Path, **more: Any) -> Comparison:
    arguments = {
        "learn": small_job.learn,
        "keep": small_job.keep,
        "seeds": 2,
        "model": small_job.model,
        "settings": STEPS,
        "workspace": workspace,
        "device": "cpu",
    }
    return compare(more.pop("methods", METHODS), **arguments | more)


def stored(workspace: Path) -> dict[str, Any]:
    """Everything in the ledger that does not depend on the clock."""
    with Workspace(workspace).ledger(read_only=True) as ledger:
        runs = ledger.runs()
        assert {item.status for item in runs} == {"done"}
        return {
            item.id: (
                item.settings,
                item.seed,
                ledger.rows(item.before_result or ""),
                ledger.rows(item.after_result or ""),
                ledger.curves(item.id),
            )
            for item in runs
        }


@pytest.fixture(scope="module")
def local(small_job: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Path]:
    """The comparison of the local engine, with one thread as each worker has."""
    import torch

    folder, threads = tmp_path_factory.mktemp("local"), torch.get_num_threads()
    torch.set_num_threads(1)
    found = run(small_job, folder)
    torch.set_num_threads(threads)
    return found, folder


def assert_same(found: Comparison, workspace: Path, local: tuple[Comparison, Path]) -> None:
    wanted, folder = local
    assert [row.runs for row in found.rows] == [row.runs for row in wanted.rows]
    assert [(row.label, row.learned, row.kept) for row in found.rows] == [
        (row.label, row.learned, row.kept) for row in wanted.rows
    ]
    assert stored(workspace) == stored(folder)
    for path in sorted(folder.glob("runs/*/adapter_model.safetensors")):
        assert (workspace / path.relative_to(folder)).read_bytes() == path.read_bytes()
    assert not list((workspace / "locks").glob("ray-*")), "what the command left for its workers is removed"


@pytest.mark.slow
def test_the_ray_engine_gives_the_runs_and_the_table_of_the_local_one(
    cluster: Any, small_job: Any, local: tuple[Comparison, Path], tmp_path: Path
) -> None:
    heard = Heard()
    found = run(small_job, tmp_path, engine="ray", workers=2, progress=heard)
    assert_same(found, tmp_path, local)
    assert heard.messages[0] == "4 runs, 2 at a time with 1 thread each"
    assert sum("is done" in line for line in heard.messages) == 4
    assert sum("ends about" in line for line in heard.messages) == 3
    assert run(small_job, tmp_path, engine="local") == found, "what one engine did the other one reuses"


@pytest.mark.slow
def test_a_worker_killed_while_it_trains_costs_nothing(
    cluster: Any, small_job: Any, local: tuple[Comparison, Path], tmp_path: Path
) -> None:
    killed: list[tuple[str, int]] = []

    def kill() -> None:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            for checkpoint in tmp_path.glob("runs/*.partial/checkpoint/step-*.safetensors"):
                run_id = checkpoint.parents[1].name.removesuffix(".partial")
                process = int((tmp_path / "locks" / run_id).read_text())
                os.kill(process, signal.SIGKILL)
                killed.append((run_id, process))
                return
            time.sleep(0.002)

    killer = threading.Thread(target=kill)
    killer.start()
    found = run(small_job, tmp_path, engine="ray", workers=2, resume=False)
    killer.join()
    assert killed, "no worker was found in the middle of its training"
    [(run_id, process)] = killed
    assert int((tmp_path / "locks" / run_id).read_text()) != process, "another worker ended the run"
    assert_same(found, tmp_path, local)


@pytest.mark.slow
def test_an_error_of_a_worker_comes_back_as_itself(cluster: Any, small_job: Any, tmp_path: Path) -> None:
    known = tmp_path / "known.csv"
    known.write_text("prompt,answer\n" + "".join(f"After {number} comes,{number + 1}\n" for number in range(24)))
    arguments: dict[str, Any] = {"keep": str(known), "seeds": 1, "engine": "ray"}
    with pytest.raises(KeepsError) as local:
        run(small_job, tmp_path / "space", methods="lora:targets=no_such_layer", **arguments | {"engine": "local"})
    with pytest.raises(type(local.value)) as remote:
        run(small_job, tmp_path / "space", methods="lora:targets=no_such_layer", **arguments)
    assert str(remote.value) == str(local.value)


@pytest.mark.slow
def test_a_cluster_is_started_where_there_is_none_and_gone_afterwards(small_job: Any, tmp_path: Path) -> None:
    import subprocess

    script = (
        "import sys, ray, keeps.jobs\n"
        "learn, keep, model, space = sys.argv[1:]\n"
        "settings = {'rank': 2, 'epochs': 1, 'batch_size': 8}\n"
        "from keeps.jobs import compare\n"
        "found = compare('lora', learn=learn, keep=keep, model=model, workspace=space, seeds=1, settings=settings,\n"
        "                device='cpu', engine='ray')\n"
        "sys.stdout.write(f'{len(found.rows)} {ray.is_initialized()}')\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    words = [sys.executable, "-c", script, small_job.learn, small_job.keep, small_job.model, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "1 False"


@pytest.mark.slow
def test_workers_on_another_machine_give_the_same_one_ledger(
    small_job: Any, local: tuple[Comparison, Path], tmp_path: Path
) -> None:
    """The last test of the file: it brings a cluster of its own, whose first machine has no core to give."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        machines.add_node(num_cpus=2)
        ray.init(address=machines.address, logging_level=40)
        found = run(small_job, tmp_path, engine="ray")
        assert [path.name for path in (tmp_path / "elsewhere").iterdir()], "the runs were done elsewhere"
        assert_same(found, tmp_path, local)
        assert run(small_job, tmp_path, engine="ray") == found
    finally:
        ray.shutdown()
        machines.shutdown()
