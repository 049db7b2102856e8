"""Runs side by side on a Ray cluster: one task a run, each in a worker process with its own model.

Ray starts the workers, deals out cores and graphics cards, and starts a run anew whose worker died
(https://docs.ray.io/en/latest/ray-core/fault_tolerance/tasks.html); keeps makes that harmless, since a run
continues from its checkpoint and the system drops the locks of a dead process. Workers on the machine of the
command write into its ledger; those on other machines see the workspace on a shared disk, and the command takes
their finished runs over.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keeps.contracts import Progress
from keeps.errors import InterruptedRunError, MissingDependencyError, SettingsError, StorageError
from keeps.jobs.data import names_marks
from keeps.jobs.engines import Shared, Tally, Task
from keeps.jobs.processes import process_count
from keeps.jobs.ray_worker import Elsewhere, Ground, Refusal, measure_marks, work
from keeps.ledger.transfer import unpack
from keeps.ledger.workspace import Workspace
from keeps.weights.files import storage_error, sync

RETRIES = 3  # how often a run is started again whose worker died
OBJECT_STORE = 100 * 2**20  # bytes of shared memory of our own cluster: what passes between processes is small


@dataclass(frozen=True)
class Shape:
    """How many workers, and what each gets."""

    workers: int
    threads: int
    cards: int


class RayEngine:
    """Runs tasks on the cluster of ``$RAY_ADDRESS``, or on one of this machine that is started for them.

    Args:
        workers: runs at a time; by default one a graphics card, without cards one a core.

    Raises:
        MissingDependencyError: Ray is not installed.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers
        self.ray = _library()

    def __call__(self, tasks: Sequence[Task], shared: Shared, progress: Progress) -> list[str]:
        """Do all runs; the first error ends the others, which their checkpoints continue another time.

        Raises:
            SettingsError: the model, the device or the number of workers does not suit workers.
            StorageError: a worker does not see the workspace.
            InterruptedRunError: a worker died again and again.
            KeepsError: what one of the runs refuses.
        """
        _refuse_unsuited(shared)
        shared = replace(shared, workspace=Workspace(shared.workspace).ensure().resolve())
        with _cluster(self.ray), _ground(self.ray, shared.workspace) as ground:
            shape = shape_of(nodes(self.ray), len(tasks), self.workers, cpu=shared.device == "cpu")
            each = f"{shape.threads} thread{'s' * (shape.threads > 1)}" + " and a graphics card" * shape.cards
            progress.message(f"{len(tasks)} runs, {shape.workers} at a time with {each} each")
            return self._run(tasks, shared, ground, shape, Tally(len(tasks), progress))

    def _run(self, tasks: Sequence[Task], shared: Shared, ground: Ground, shape: Shape, tally: Tally) -> list[str]:
        ray = self.ray
        options: dict[str, Any] = {
            "num_cpus": shape.threads,
            "num_gpus": shape.cards,
            "max_retries": RETRIES,
            "retry_exceptions": False,  # what a run refuses, it refuses again
            "runtime_env": {"env_vars": manners(shape.threads)},
        }
        if names_marks(shared.learn) or names_marks(shared.keep):
            marks = ray.remote(measure_marks).options(**options)  # once, and not once a worker
            self._result(marks.remote(shared, ground), "what the model knows")
        remote = ray.remote(work).options(**options)
        waiting = deque(range(len(tasks)))
        under_way: dict[Any, tuple[int, float]] = {}
        run_ids: dict[int, str] = {}
        try:
            while waiting or under_way:
                while waiting and len(under_way) < shape.workers:
                    number = waiting.popleft()
                    under_way[remote.remote(number, tasks[number], shared, ground)] = (number, time.monotonic())
                [ready], _ = ray.wait(list(under_way), num_returns=1)
                number, started = under_way.pop(ready)
                found = self._result(ready, tasks[number].label)
                run_ids[number] = take_over(found, shared.workspace) if isinstance(found, Elsewhere) else found
                tally.finished(tasks[number].label, time.monotonic() - started)
        finally:
            for left in under_way:
                ray.cancel(left, force=True)
        return [run_ids[number] for number in range(len(tasks))]

    def _result(self, ready: Any, label: str) -> Any:
        failures = self.ray.exceptions
        died = (failures.WorkerCrashedError, failures.NodeDiedError, failures.OutOfMemoryError)
        try:
            found = self.ray.get(ready)
        except died as error:
            memory = " for want of memory" if isinstance(error, failures.OutOfMemoryError) else ""
            raise InterruptedRunError(
                f"the worker of {label} died {RETRIES + 1} times{memory}",
                mend="give the same command again, with fewer --workers: what is done is reused, the rest continues",
            ) from None
        if isinstance(found, Refusal):
            raise found.error()
        return found


def take_over(found: Elsewhere, workspace: Path) -> str:
    """Bring a run that another machine finished into ``workspace``: its folder first, the ledger last; returns its id.

    Raises:
        StorageError: the folder cannot be moved.
        LedgerError: the ledger cannot take it.
    """
    space, run_id = Workspace(workspace), found.parcel.run.id
    source, final = Workspace(found.workspace).run_folder(run_id), space.run_folder(run_id)
    try:
        if not final.exists():
            source.rename(final)
            sync(final.parent)
    except OSError as error:
        raise storage_error(error, final) from error
    shutil.rmtree(space.partial_folder(run_id), ignore_errors=True)  # of an attempt that this run replaces
    with space.ledger() as ledger:
        unpack(found.parcel, ledger)
    return run_id


def finished(workspace: Path) -> frozenset[str]:
    """Ids of the runs that ``workspace`` holds whole."""
    space = Workspace(workspace)
    with space.ledger() as ledger:
        runs = ledger.runs(status="done")
    return frozenset(run.id for run in runs if run.after_result and space.run_folder(run.id).exists())


def manners(threads: int) -> dict[str, str]:
    """Environment of a worker that computes with ``threads`` threads."""
    return {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}


def nodes(ray: Any) -> list[Mapping[str, float]]:
    """What each live machine of the cluster has: ``CPU``, ``GPU`` and so on."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def shape_of(machines: Sequence[Mapping[str, float]], tasks: int, workers: int | None, *, cpu: bool) -> Shape:
    """Share the machines out among workers, so that all of them run at once and no core is promised twice.

    >>> shape_of([{"CPU": 8.0}], tasks=9, workers=3, cpu=False)
    Shape(workers=3, threads=2, cards=0)
    >>> shape_of([{"CPU": 8.0, "GPU": 2.0}], tasks=9, workers=None, cpu=False)
    Shape(workers=2, threads=4, cards=1)

    Args:
        tasks: runs to do; more workers than runs would be idle.
        workers: as the user wants, or None.
        cpu: leave graphics cards alone.

    Raises:
        SettingsError: there are fewer cores (or cards) than workers.
    """
    cores = [int(machine.get("CPU", 0)) for machine in machines]
    cards = 0 if cpu else int(sum(machine.get("GPU", 0) for machine in machines))
    places, what = (cards, "graphics cards") if cards else (sum(cores), "cores")
    if places == 0:
        raise SettingsError("the cluster has no core to give", where="ray", mend="start its nodes with --num-cpus")
    if workers is not None and workers > places:
        mend = f"choose --workers {places} or fewer" + (", or --device cpu" if cards else "")
        raise SettingsError(f"the cluster has {places} {what} for {workers} workers", where="--workers", mend=mend)
    count = min(tasks, workers or places)
    fitting = [threads for threads in range(1, max(cores) + 1) if sum(core // threads for core in cores) >= count]
    return Shape(count, max(fitting, default=1), 1 if cards else 0)


def _library() -> Any:
    try:
        import ray
    except ImportError:
        mend = 'pip install "keeps[ray]", or leave --engine out'
        raise MissingDependencyError("Ray is not installed", where="--engine ray", mend=mend) from None
    return ray


def _refuse_unsuited(shared: Shared) -> None:
    if not isinstance(shared.model, (str, Path)):
        mend = "give its name or folder, from which each worker loads its own"
        raise SettingsError("a loaded model cannot be handed to workers", where="engine ray", mend=mend)
    if shared.device is not None and shared.device not in ("cpu", "cuda"):
        mend = 'write --device cpu or --device cuda: Ray gives each worker a card of its own, which it sees as "cuda"'
        raise SettingsError(f'"{shared.device}" is no device for workers', where="--engine ray", mend=mend)
    if process_count() > 1:
        mend = "leave accelerate launch out, or use --engine local"
        raise SettingsError("a launch of several processes cannot have workers too", where="--engine ray", mend=mend)


@contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    """A connection to the program's own cluster, to that of ``$RAY_ADDRESS``, or to a new one of this machine."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
    with _no_usage_report():
        try:
            ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **({} if address else own))
        except (ConnectionError, RuntimeError, ValueError) as error:
            mend = "look whether it runs with `ray status`, or unset RAY_ADDRESS to start one on this machine"
            what = f"there is no Ray cluster to connect to ({type(error).__name__})"
            raise SettingsError(what, where=address or "this machine", mend=mend) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _no_usage_report() -> Iterator[None]:
    """A cluster that we start tells nobody of itself."""
    name = "RAY_USAGE_STATS_ENABLED"
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _ground(ray: Any, workspace: Path) -> Iterator[Ground]:
    """A folder in the workspace by which workers see that it is the same one."""
    folder = workspace / "locks" / f"ray-{uuid.uuid4().hex}"
    try:
        folder.mkdir()
    except OSError as error:
        mend = "choose another folder with --workspace, or change its permissions"
        raise StorageError(f"the workspace is not writable ({error.strerror})", where=str(folder), mend=mend) from None
    try:
        yield Ground(str(folder), str(Path.cwd()), ray.get_runtime_context().get_node_id(), finished(workspace))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
