"""What cannot work is refused in words and before it costs anything; what cannot be stored is never half stored."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from keeps.cli.main import main
from keeps.errors import (
    EmptySetError,
    InputFileError,
    KeepsError,
    RecordError,
    SettingsError,
    StorageError,
    UnknownNameError,
)
from keeps.jobs.adapting import adapt
from keeps.jobs.exporting import export
from keeps.jobs.probing import probe
from keeps.ledger.workspace import Workspace
from keeps.models import LanguageModel


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model is a failure of the test."""

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(LanguageModel, "load", refused)


BAD_JOBS: list[tuple[dict[str, Any], type[KeepsError], str]] = [
    ({"learn": "no such.jsonl"}, InputFileError, "no such file"),
    ({"learn": "world:capitol"}, UnknownNameError, 'did you mean "capital"'),
    ({"learn": "wrld"}, UnknownNameError, 'did you mean "world"'),
    ({"learn": ""}, EmptySetError, "no data is named"),
    ({"keep": "world:known:nothing"}, UnknownNameError, 'the world has no "nothing"'),
    ({"learn": "world:symbol", "keep": "world:symbol"}, EmptySetError, "all of it is taught"),
    ({"method": "lorra"}, UnknownNameError, 'did you mean "lora"'),
    ({"settings": {"rnak": 4}}, UnknownNameError, 'did you mean "rank"'),
    ({"settings": {"rank": 0}}, SettingsError, "rank is 0"),
    ({"settings": {"rank": "four"}}, SettingsError, "not a whole number"),
    ({"settings": {"learning_rate": float("nan")}}, SettingsError, "learning_rate is nan"),
    ({"workspace": Path(__file__)}, StorageError, "not writable"),
    ({"workspace": "/proc/keeps"}, StorageError, "not writable"),
]


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(("changes", "error", "words"), BAD_JOBS, ids=[case[2] for case in BAD_JOBS])
def test_a_bad_job_is_refused_before_a_model_is_loaded(
    small_job: Any, tmp_path: Path, changes: dict[str, Any], error: type[KeepsError], words: str
) -> None:
    with pytest.raises(error, match=words):
        adapt(**small_job.arguments(tmp_path / "workspace", model="tiny") | changes)
    assert not (tmp_path / "workspace" / "keeps.db").exists()


@pytest.mark.usefixtures("no_model")
def test_a_bad_probe_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("prompt,answer\nThe capital of Norway is,\n")
    with pytest.raises(RecordError, match="line 2"):
        probe("tiny", str(tmp_path / "bad.csv"), workspace=tmp_path)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_workspace_without_the_right_to_write_is_refused(small_job: Any, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    with pytest.raises(StorageError, match="not writable"):
        adapt(**small_job.arguments(locked, model=small_job.model))


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """A disk that is full as soon as a file grows above ``size`` bytes, by the system's own limit."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_a_full_disk_is_said_in_words_and_the_job_goes_on_when_there_is_room(
    small_job: Any, model: LanguageModel, tmp_path: Path
) -> None:
    arguments = small_job.arguments(tmp_path, model=model, method="full") | {"settings": {"epochs": 1}}
    before = model.fingerprint
    with files_no_larger_than(3_000_000), pytest.raises(StorageError, match=r"disk is full .*--resume"):
        adapt(**arguments)  # a checkpoint has six megabytes, the ledger one
    assert model.fingerprint == before
    with Workspace(tmp_path).ledger(read_only=True) as ledger:
        [run] = ledger.runs()
        assert run.status == "failed"
    assert not [path for path in (tmp_path / "runs").iterdir() if not path.name.endswith(".partial")]
    done = adapt(**arguments, resume=True)
    assert (done.folder / "model.safetensors").stat().st_size > 3_000_000


@pytest.mark.parametrize("step", ["keeps.jobs.attempt.publish", "keeps.jobs.attempt.asked"])
def test_a_disk_that_fills_up_at_the_end_leaves_no_half_folder(
    small_job: Any, model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    arguments = small_job.arguments(tmp_path, model=model)
    calls: list[object] = []
    real: Callable[..., Any] = _named(step)

    def full(*args: Any) -> Any:
        calls.append(args)
        if step.endswith("publish") or len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(*args)

    monkeypatch.setattr(step, full)
    with pytest.raises(StorageError, match="disk is full"):
        adapt(**arguments)
    monkeypatch.setattr(step, real)
    folders = [path.name for path in (tmp_path / "runs").iterdir()]
    assert [name.endswith(".partial") for name in folders] == [step.endswith("publish")]
    done = adapt(**arguments, resume=True)
    assert done.folder.name == folders[0].removesuffix(".partial")


def _named(path: str) -> Callable[..., Any]:
    import importlib

    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_a_run_that_diverges_ends_with_exit_code_2_and_one_paragraph(
    small_job: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(small_job.words(tmp_path, learning_rate=9.0, alpha=1e30)) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("keeps: error: the gradient of step 1 of")
    assert "lower learning_rate" in said
    assert "\n" not in said


def test_forms_are_written_and_their_error_is_told(small_job: Any, model: LanguageModel, tmp_path: Path) -> None:
    run = adapt(**small_job.arguments(tmp_path, model=model))
    for form in ("lora", "merged"):
        assert export(run.run_id, form, tmp_path / form, workspace=tmp_path) < 1e-3
    assert (tmp_path / "merged" / "model.safetensors").exists()
    assert (tmp_path / "lora" / "adapter_model.safetensors").exists()


@pytest.mark.usefixtures("no_model")
def test_an_export_that_cannot_work_is_refused_before_a_model_is_loaded(
    small_job: Any, tmp_path: Path, finished_run: tuple[str, Path]
) -> None:
    run, workspace = finished_run
    for arguments, error, words in (
        ((run, "mergd", tmp_path / "new"), UnknownNameError, 'did you mean "merged"'),
        ((run, "merged", tmp_path), StorageError, "exists already"),
        ((small_job.model, "merged", tmp_path / "new"), StorageError, "no finished run"),
        (("lora-no", "merged", tmp_path / "new"), StorageError, "no finished run"),
    ):
        with pytest.raises(error, match=words):
            export(*arguments, workspace=workspace)
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def finished_run(small_job: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A run and its workspace."""
    workspace = tmp_path_factory.mktemp("workspace")
    return adapt(**small_job.arguments(workspace, model=small_job.model)).run_id, workspace
