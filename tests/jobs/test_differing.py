"""Diffs of runs, folders and models, from stored rows where they are there and asked once where not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import keeps
from keeps.errors import LedgerError, ModelLoadError, StorageError, UnknownNameError
from keeps.jobs.adapting import adapt
from keeps.jobs.differing import diff
from keeps.jobs.job import AdaptOutcome
from keeps.ledger.records import RunRecord
from keeps.ledger.workspace import Workspace
from keeps.models import LanguageModel
from keeps.probe import FactProbe


@pytest.fixture(scope="module")
def pair(
    small_job: Any, model: LanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[AdaptOutcome, AdaptOutcome, Path]:
    """Two runs of one job on the tiny model, and their workspace."""
    workspace = tmp_path_factory.mktemp("workspace")
    rates = {**small_job.settings, "learning_rate": 5e-2}
    first = adapt(**small_job.arguments(workspace, model=model))
    second = adapt(**small_job.arguments(workspace, model=model) | {"settings": rates})
    return first, second, workspace


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model is a failure of the test."""

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(LanguageModel, "load", refused)


@pytest.mark.usefixtures("no_model")
def test_a_run_is_compared_with_its_base_from_stored_rows(pair: tuple[AdaptOutcome, AdaptOutcome, Path]) -> None:
    first, _, workspace = pair
    assert diff(first.run_id, workspace=workspace) == first.diff
    assert keeps.diff(first.run_id[:9], workspace=workspace) == first.diff, "a unique prefix is enough"
    assert diff(str(first.folder), workspace=workspace) == first.diff, "so is the folder"


@pytest.mark.usefixtures("no_model")
def test_two_runs_of_one_job_are_compared_without_asking_again(pair: tuple[AdaptOutcome, AdaptOutcome, Path]) -> None:
    first, second, workspace = pair
    found = diff(first.run_id, second.run_id, workspace=workspace)
    assert (found.before_name, found.after_name) == (first.run_id, second.run_id)
    after_first = {item.id: (item.after, item.logprob_after) for item in first.diff.items}
    after_second = {item.id: (item.after, item.logprob_after) for item in second.diff.items}
    assert {item.id: (item.before, item.logprob_before) for item in found.items} == after_first
    assert {item.id: (item.after, item.logprob_after) for item in found.items} == after_second
    assert after_first != after_second


def test_a_run_and_its_base_give_the_diff_of_the_run(
    pair: tuple[AdaptOutcome, AdaptOutcome, Path], small_job: Any
) -> None:
    first, _, workspace = pair
    found = diff(small_job.model, first.run_id, workspace=workspace)
    assert found.groups == first.diff.groups
    assert found.items == first.diff.items
    back = diff(first.run_id, small_job.model, workspace=workspace)
    assert [item.before for item in back.items] == [item.after for item in found.items]


def test_other_questions_are_asked_of_both_sides_and_stored(
    pair: tuple[AdaptOutcome, AdaptOutcome, Path], small_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, workspace = pair
    path = tmp_path / "questions.jsonl"
    rows = [{"prompt": f"Twice {number} is", "answer": str(2 * number)} for number in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loads: list[object] = []
    load = LanguageModel.load
    monkeypatch.setattr(LanguageModel, "load", lambda *args, **more: loads.append(args) or load(*args, **more))
    found = diff(first.run_id, second.run_id, probe=str(path), workspace=workspace)
    assert [group.n for group in found.groups] == [5]
    assert len(loads) == 1, "runs on one base share it"
    alone = diff(second.run_id, probe=str(path), workspace=workspace)
    assert (alone.before_name, alone.after_name) == (small_job.model, second.run_id)
    assert [item.after for item in alone.items] == [item.after for item in found.items]
    asked = FactProbe.__call__
    monkeypatch.setattr(FactProbe, "__call__", lambda *_, **__: pytest.fail("asked again"))
    assert diff(first.run_id, second.run_id, probe=str(path), workspace=workspace) == found
    assert asked is not FactProbe.__call__


def test_changes_of_any_folder_can_be_compared(
    pair: tuple[AdaptOutcome, AdaptOutcome, Path], small_job: Any, tmp_path: Path
) -> None:
    first, _, _ = pair
    folder = tmp_path / "given away"
    shutil.copytree(first.folder, folder)
    elsewhere = tmp_path / "workspace"
    with pytest.raises(LedgerError, match="no run of this workspace"):
        diff(str(folder), workspace=elsewhere)
    found = diff(small_job.model, str(folder), probe=small_job.keep, workspace=elsewhere)
    assert (found.after_name, found.groups[0].n) == ("given away", 24)


def record(run_id: str, status: str, **more: Any) -> RunRecord:
    return RunRecord(run_id, "adapt", "lora", "tiny", "00", status=status, folder=f"runs/{run_id}", **more)


@pytest.mark.parametrize(("status", "mend"), [("running", "--resume"), ("failed", "mend what stopped it")])
def test_a_run_that_is_not_done_says_what_to_do(tmp_path: Path, status: str, mend: str) -> None:
    with Workspace(tmp_path).ledger() as ledger:
        ledger.add_run(record("lora-1", status))
    with pytest.raises(LedgerError, match=rf"the run is {status} and has not been probed \(lora-1\): .*{mend}"):
        diff("lora-1", workspace=tmp_path)
    with pytest.raises(StorageError, match=rf"the run is {status} and has no model yet"):
        diff("lora-1", "lora-1", probe="world:continent", workspace=tmp_path)


def test_names_that_mean_nothing_or_several_things_are_refused(tmp_path: Path) -> None:
    with Workspace(tmp_path).ledger() as ledger:
        ledger.add_run(record("lora-12", "done"))
        ledger.add_run(record("lora-13", "done"))
    with pytest.raises(UnknownNameError, match="begins 2 run ids"):
        diff("lora", workspace=tmp_path)
    with pytest.raises(LedgerError, match='"corda-1" is no run of this workspace'):
        diff("corda-1", workspace=tmp_path)
    with pytest.raises(ModelLoadError):
        diff("no such model", "nor this one", workspace=tmp_path)
    with pytest.raises(LedgerError, match="no run of this workspace"):
        diff("", workspace=tmp_path)


def test_a_run_whose_data_has_changed_is_not_asked_other_questions_in_silence(
    small_job: Any, model: LanguageModel, tmp_path: Path
) -> None:
    keep = tmp_path / "known.csv"
    keep.write_bytes(Path(small_job.keep).read_bytes())
    run = adapt(**small_job.arguments(tmp_path, model=model) | {"keep": str(keep)})
    keep.write_text(keep.read_text() + "After 100 comes,101\n" * 1)
    with pytest.raises(LedgerError, match=r"not what they were.*--probe"):
        diff(run.run_id, small_job.model, workspace=tmp_path)
    keep.unlink()
    with pytest.raises(LedgerError, match=r"cannot be asked again.*--probe"):
        diff(run.run_id, small_job.model, workspace=tmp_path)
    assert diff(run.run_id, workspace=tmp_path) == run.diff, "its own rows are stored"
