"""Where the runs of a comparison are done: one after another in this process, or side by side on a Ray cluster.

An engine gets the runs and returns their ids. What a run is, and so its id and its result, does not depend on it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from keeps.contracts import Progress
from keeps.data.records import RecordSet
from keeps.errors import SettingsError, UnknownNameError, nearest
from keeps.jobs.adapting import adapt, chosen_settings
from keeps.jobs.data import job_data
from keeps.jobs.job import Job
from keeps.jobs.models import marks_for
from keeps.jobs.processes import own_device
from keeps.registry import find_method

if TYPE_CHECKING:
    from keeps.models.language_model import LanguageModel

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Task:
    """One run: a method with all its settings, and a seed."""

    method: str
    settings: Mapping[str, Any]
    seed: int

    @property
    def label(self) -> str:
        """What people call it.

        >>> Task("lora", {}, 2).label
        'lora, seed 2'
        """
        return f"{self.method}, seed {self.seed}"


@dataclass(frozen=True)
class Shared:
    """What all runs have in common; the arguments of :func:`keeps.jobs.adapting.adapt`."""

    learn: str | RecordSet
    keep: str | RecordSet
    model: Any
    device: str | None
    workspace: Path
    resume: bool
    command: str


class Engine(Protocol):
    """Does the runs of a comparison."""

    def __call__(self, tasks: Sequence[Task], shared: Shared, progress: Progress) -> list[str]:
        """The ids of the runs, in the order of ``tasks``; all are in the ledger then.

        Raises:
            KeepsError: what one of the runs refuses, or what stops the engine.
        """
        ...


def choose_engine(name: str, workers: int | None = None) -> Engine:
    """The engine with this name; nothing is started yet.

    Raises:
        UnknownNameError: there is none.
        SettingsError: ``workers`` is below one, or given to an engine that has none.
        MissingDependencyError: the engine's library is not installed.
    """
    if name not in ENGINES:
        raise UnknownNameError(f'there is no engine "{name}"', where="--engine", mend=nearest(name, ENGINES))
    if workers is not None and workers < 1:
        raise SettingsError(f"{workers} workers do nothing", where="--workers", mend="choose one or more")
    if name == "ray":
        from keeps.jobs.ray_engine import RayEngine

        return RayEngine(workers)
    if workers is not None:
        mend = "add --engine ray to run side by side, or leave it out"
        raise SettingsError("the local engine runs one after another", where="--workers", mend=mend)
    return LocalEngine()


class LocalEngine:
    """One run after the other, all on one model that is loaded once."""

    def __call__(self, tasks: Sequence[Task], shared: Shared, progress: Progress) -> list[str]:
        """Do the runs in their order; an error ends the comparison."""
        base = _loaded(shared.model, shared.device, progress)
        run_ids = []
        for number, task in enumerate(tasks, start=1):
            progress.message(f"run {number} of {len(tasks)}: {task.label}")
            run_ids.append(do(task, shared, base, progress))
        return run_ids


def do(task: Task, shared: Shared, model: LanguageModel, progress: Progress | None = None) -> str:
    """One run on a loaded model, which gets its weights back; returns the run's id."""
    outcome = adapt(
        shared.learn,
        shared.keep,
        method=task.method,
        model=model,
        settings=task.settings,
        seed=task.seed,
        device=shared.device,
        workspace=shared.workspace,
        resume=shared.resume,
        command=shared.command,
        progress=progress,
    )
    return outcome.run_id


def run_id_of(task: Task, shared: Shared, model: LanguageModel) -> str:
    """The id that the run will have, found without doing it."""
    info = find_method(task.method, "adapt")
    marks = marks_for(model, shared.learn, shared.keep)
    found = job_data(shared.learn, shared.keep, marks=marks, report="test", ask_calibrated=True)
    settings = chosen_settings(info, task.settings)
    return Job(info, settings, found, "", "", task.seed, model.fingerprint).run_id


@dataclass
class Tally:
    """Counts finished runs and says when the last one is likely to end.

    The estimate takes every run to be as long as those that are done, so it is rough while methods differ.
    """

    total: int
    progress: Progress
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    def finished(self, label: str, seconds: float) -> None:
        """Say that one more run is done, which took ``seconds``."""
        self.done += 1
        line = f"run {self.done} of {self.total} is done: {label}, {seconds:.0f} s"
        if self.done < self.total:
            left = (time.monotonic() - self.started) / self.done * (self.total - self.done)
            line += f"; the last one ends about {datetime.now() + timedelta(seconds=left):%H:%M:%S}"
        self.progress.message(line)


def _loaded(model: Any, device: str | None, progress: Progress) -> LanguageModel:
    """The model, loaded once for all runs."""
    from keeps.models.language_model import LanguageModel

    if isinstance(model, LanguageModel):
        return model
    return LanguageModel.load(model, device=own_device(device), progress=progress)
