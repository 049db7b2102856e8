"""Engines before anything is started: what they refuse, how a cluster is shared out, and how an error travels."""

from __future__ import annotations

import builtins
import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from keeps.cli.main import main
from keeps.contracts import ChangeRecord
from keeps.errors import KeepsError, MissingDependencyError, SettingsError, StorageError, UnknownNameError
from keeps.jobs.engines import Shared, Tally, Task, choose_engine, do, run_id_of
from keeps.jobs.ray_engine import RayEngine, Shape, finished, manners, shape_of, take_over
from keeps.jobs.ray_worker import Elsewhere, Ground, Refusal, check_ground, do_elsewhere
from keeps.ledger.transfer import pack
from keeps.ledger.workspace import Workspace
from keeps.models import LanguageModel


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("rya",), UnknownNameError, 'did you mean "ray"'),
        (("ray", 0), SettingsError, "0 workers"),
        (("local", 2), SettingsError, "add --engine ray"),
    ],
)
def test_an_engine_that_cannot_be_is_refused(arguments: Any, error: type[KeepsError], words: str) -> None:
    with pytest.raises(error, match=words):
        choose_engine(*arguments)


def test_the_command_refuses_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--methods", "lora", "--engine", "rya", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "UnknownNameError"


def test_a_missing_ray_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def absent(name: str, *rest: Any, **more: Any) -> Any:
        if name == "ray":
            raise ImportError(name)
        return found(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingDependencyError, match=r"keeps\[ray\]"):
        choose_engine("ray")


def engine() -> RayEngine:
    """An engine whose library must not be touched."""
    made = RayEngine.__new__(RayEngine)
    made.workers, made.ray = None, SimpleNamespace()
    return made


@pytest.mark.parametrize(
    ("changes", "env", "words"),
    [
        ({"model": LanguageModel.__new__(LanguageModel)}, {}, "a loaded model cannot be handed to workers"),
        ({"device": "cuda:1"}, {}, "write --device cpu or --device cuda"),
        ({}, {"WORLD_SIZE": "2"}, "leave accelerate launch out"),
    ],
)
def test_what_does_not_suit_workers_is_refused_before_a_cluster_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, Any], env: dict[str, str], words: str
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    values = {"learn": "world:capital", "keep": "world:symbol", "model": "smollm2-135m", "device": None}
    shared = Shared(**{**values, "workspace": tmp_path / "space", "resume": True, "command": "", **changes})
    with pytest.raises(SettingsError, match=words):
        engine()([Task("lora", {}, 0)], shared, SimpleNamespace(message=pytest.fail))  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "space").exists()


@pytest.mark.parametrize(
    ("machines", "tasks", "workers", "wanted"),
    [
        ([{"CPU": 2.0}], 4, None, Shape(2, 1, 0)),
        ([{"CPU": 8.0}], 3, None, Shape(3, 2, 0)),
        ([{"CPU": 8.0}], 2, 8, Shape(2, 4, 0)),  # more workers than runs would be idle
        ([{"CPU": 5.0}, {"CPU": 3.0}], 9, 3, Shape(3, 2, 0)),  # of 3 threads only two workers would find room
        ([{"CPU": 16.0, "GPU": 2.0}], 9, None, Shape(2, 8, 1)),
        ([{"memory": 1.0}, {"CPU": 4.0}], 9, 4, Shape(4, 1, 0)),
    ],
)
def test_a_cluster_is_shared_out_so_that_all_workers_run_at_once(
    machines: list[dict[str, float]], tasks: int, workers: int | None, wanted: Shape
) -> None:
    found = shape_of(machines, tasks, workers, cpu=False)
    assert found == wanted
    assert sum(int(machine.get("CPU", 0)) // found.threads for machine in machines) >= found.workers


def test_more_workers_than_the_cluster_has_room_for_are_refused() -> None:
    with pytest.raises(SettingsError, match="2 cores for 3 workers"):
        shape_of([{"CPU": 2.0}], 4, 3, cpu=False)
    with pytest.raises(SettingsError, match="1 graphics cards for 3 workers"):
        shape_of([{"CPU": 8.0, "GPU": 1.0}], 4, 3, cpu=False)
    assert shape_of([{"CPU": 8.0, "GPU": 1.0}], 4, 3, cpu=True) == Shape(3, 2, 0)


def test_each_worker_has_its_own_threads() -> None:
    assert manners(3)["OMP_NUM_THREADS"] == "3"


def test_a_worker_that_does_not_see_the_files_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "locks" / "ray-1"
    folder.mkdir(parents=True)
    check_ground(Ground(str(folder), str(tmp_path), "here"))
    for ground, words in (
        (Ground(str(tmp_path / "no" / "ray-1"), str(tmp_path), "here"), "does not see the workspace"),
        (Ground(str(folder), str(tmp_path / "no"), "here"), "does not see the folder of the command"),
    ):
        with pytest.raises(StorageError, match=words):
            check_ground(ground)


def test_a_run_of_another_machine_is_taken_over_whole_and_found_again(
    small_job: Any, model: LanguageModel, tmp_path: Path
) -> None:
    here, settings = tmp_path / "here", small_job.settings
    shared = Shared(small_job.learn, small_job.keep, model, "cpu", here, True, "keeps compare")
    task, ground = Task("lora", settings, 3), Ground("", "", "", frozenset())
    found = do_elsewhere(task, shared, ground, model, "far")
    assert isinstance(found, Elsewhere)
    run_id = found.parcel.run.id
    assert run_id == run_id_of(task, shared, model)
    space = Workspace(here)
    assert not space.database.exists(), "the other machine left the ledger alone"
    space.ensure()
    space.partial_folder(run_id).mkdir()
    for _ in range(2):  # a command that died in between takes it over again
        assert take_over(found, here) == run_id
        assert not space.partial_folder(run_id).exists()
        assert ChangeRecord.read(space.run_folder(run_id)).seed == 3
        with space.ledger(read_only=True) as ledger:
            taken = pack(ledger, run_id)
        assert (taken.run, taken.curves) == (found.parcel.run, found.parcel.curves)
        rows = [(result.id, its) for result, its in found.parcel.results]  # a result is as old as its entry
        assert [(result.id, its) for result, its in taken.results] == rows
    assert finished(here) == {run_id}
    assert do_elsewhere(task, shared, replace(ground, done=finished(here)), model, "far") == run_id
    assert do(task, shared, model) == run_id, "the run is done for the local engine too"


def test_an_error_travels_as_words_and_comes_out_as_itself() -> None:
    class OwnError(StorageError):
        """Of a type that only its own file knows."""

    error = OwnError("it is full", where="disk", mend="is there room elsewhere?")
    again = Refusal.of(error).error()
    assert type(again) is StorageError
    assert (str(again), again.what, again.where, again.mend) == (str(error), error.what, error.where, error.mend)


def test_a_finished_run_is_one_line_with_the_time_of_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    tally = Tally(2, SimpleNamespace(message=lines.append), started=0.0)  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr("keeps.jobs.engines.time.monotonic", lambda: 60.0)

    class Noon(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2026, 1, 1, 12, 0, tzinfo=tz)

    monkeypatch.setattr("keeps.jobs.engines.datetime", Noon)
    tally.finished("lora, seed 0", 59.8)
    tally.finished("lora, seed 1", 61.0)
    assert lines == [
        "run 1 of 2 is done: lora, seed 0, 60 s; the last one ends about 12:01:00",
        "run 2 of 2 is done: lora, seed 1, 61 s",
    ]
