"""A job from files to a folder, the ledger and a diff that can be recomputed from stored rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import keeps
from keeps.adapt.full import FullSettings
from keeps.adapt.lora import LoRA
from keeps.contracts import Row, Run
from keeps.data.records import Example, RecordSet
from keeps.data.select import load_records
from keeps.errors import InterruptedRunError, SettingsError, StorageError, TrainingError
from keeps.jobs.adapting import adapt
from keeps.jobs.job import AdaptOutcome
from keeps.ledger.difference import compare_rows
from keeps.ledger.workspace import Workspace
from keeps.models import LanguageModel
from keeps.training.adapter import AdapterSettings
from keeps.weights import load_tensors


@pytest.fixture(scope="module")
def finished(small_job: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[AdaptOutcome, Path]:
    """The small job, done once, and its workspace."""
    workspace = tmp_path_factory.mktemp("workspace")
    command = "keeps adapt --learn new.jsonl"
    outcome = adapt(**small_job.arguments(workspace, model=small_job.model, command=command))
    return outcome, workspace


def stored_rows(workspace: Path, run_id: str) -> tuple[list[Row], list[Row]]:
    with Workspace(workspace).ledger(read_only=True) as ledger:
        run = ledger.find_run(run_id)
        assert run.before_result
        assert run.after_result
        return ledger.rows(run.before_result), ledger.rows(run.after_result)


def test_the_diff_is_recomputed_from_the_stored_rows(finished: tuple[AdaptOutcome, Path]) -> None:
    outcome, workspace = finished
    again = compare_rows(*stored_rows(workspace, outcome.run_id))
    assert again.groups == outcome.diff.groups
    assert again.totals == outcome.diff.totals
    assert again.texts == outcome.diff.texts
    assert again.items == outcome.diff.items
    assert {group.name for group in outcome.diff.groups} == {
        "learn: sky",
        "learn: sky, unseen wording",
        "keep: examples",
        "calibrated: examples",
    }


def test_the_run_is_written_down_with_everything_that_repeats_it(
    finished: tuple[AdaptOutcome, Path], small_job: Any, model: LanguageModel
) -> None:
    outcome, workspace = finished
    with Workspace(workspace).ledger(read_only=True) as ledger:
        run = ledger.find_run(outcome.run_id)
        curves = ledger.curves(outcome.run_id)
    assert (run.status, run.method, run.seed, run.kind) == ("done", "lora", 0, "adapt")
    assert (run.model, run.model_fingerprint) == (small_job.model, model.fingerprint)
    assert run.command == "keeps adapt --learn new.jsonl"
    assert run.settings == AdapterSettings(rank=2, epochs=2, batch_size=8).to_mapping()
    assert run.data_fingerprints["learn"] == load_records(small_job.learn).fingerprint
    assert {"train_seconds", "total_seconds", "peak_memory_bytes", "trained_parameters", "disk_bytes"} <= set(
        run.measures
    )
    steps = 2 * -(-6 * 3 // 8)  # two epochs over six facts in three wordings, eight to a batch
    assert [step for name, step, _ in curves if name == "loss"] == list(range(1, steps + 1))
    assert Path(workspace, run.folder) == outcome.folder


def test_the_folder_is_complete_and_nothing_is_left_beside_it(finished: tuple[AdaptOutcome, Path]) -> None:
    outcome, workspace = finished
    names = sorted(path.name for path in outcome.folder.iterdir())
    assert names == ["README.md", "adapter_config.json", "adapter_model.safetensors", "change.json", "curves.json"]
    assert [path.name for path in (workspace / "runs").iterdir()] == [outcome.run_id]
    card = (outcome.folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: peft\n")
    assert f'PeftModel.from_pretrained(base, "{outcome.run_id}")' in card


def test_the_card_of_a_run_loads_it_with_peft_and_transformers_alone(
    finished: tuple[AdaptOutcome, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome, workspace = finished
    card = (outcome.folder / "README.md").read_text(encoding="utf-8")
    code = card.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(workspace / "runs")
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102  (the code that users are told to type)
    assert names["model"](torch.tensor([[1, 2, 3]])).logits.shape[:2] == (1, 3)


def test_a_job_that_is_done_is_not_repeated(
    finished: tuple[AdaptOutcome, Path], small_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome, workspace = finished

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("trained again")

    monkeypatch.setattr(LoRA, "__call__", refused)
    again = adapt(**small_job.arguments(workspace, model=small_job.model, command="another command"))
    assert again.reused
    assert again == replace(outcome, reused=True)


def test_keeps_adapt_is_the_same_function(finished: tuple[AdaptOutcome, Path], small_job: Any) -> None:
    outcome, workspace = finished
    assert keeps.adapt(**small_job.arguments(workspace, model=small_job.model)).run_id == outcome.run_id


def test_settings_may_be_a_mapping_a_dataclass_or_texts(
    finished: tuple[AdaptOutcome, Path], small_job: Any, model: LanguageModel
) -> None:
    outcome, workspace = finished
    for settings in (AdapterSettings(rank=2, epochs=2, batch_size=8), {"rank": "2", "epochs": "2", "batch_size": "8"}):
        same = adapt(**small_job.arguments(workspace, model=model) | {"settings": settings})
        assert (same.run_id, same.reused) == (outcome.run_id, True)


@pytest.mark.parametrize("change", ["seed", "settings", "learn", "keep", "method"])
def test_whatever_decides_the_result_decides_the_id(
    finished: tuple[AdaptOutcome, Path], small_job: Any, model: LanguageModel, change: str
) -> None:
    outcome, workspace = finished
    keep = load_records(small_job.keep)
    learn = load_records(small_job.learn)
    arguments: dict[str, Any] = {
        "seed": {"seed": 1},
        "settings": {"settings": {**small_job.settings, "learning_rate": 2e-4}},
        "learn": {"learn": RecordSet(learn.source, learn.records[1:])},
        "keep": {"keep": RecordSet(keep.source, tuple(item for item in keep if item != keep.part("test").records[0]))},
        "method": {"method": "full", "settings": {"epochs": 1}},
    }[change]
    other = adapt(**(small_job.arguments(workspace, model=model) | arguments))
    assert not other.reused
    assert other.run_id != outcome.run_id
    assert other.run_id.startswith("full-" if change == "method" else "lora-")


def test_the_same_content_from_another_file_is_the_same_job(
    finished: tuple[AdaptOutcome, Path], small_job: Any, model: LanguageModel, tmp_path: Path
) -> None:
    outcome, workspace = finished
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(Path(small_job.learn).read_bytes())
    same = adapt(**small_job.arguments(workspace, model=model) | {"learn": str(copy)})
    assert (same.run_id, same.reused) == (outcome.run_id, True)


def test_the_model_has_its_weights_back(small_job: Any, model: LanguageModel, tmp_path: Path) -> None:
    before = model.fingerprint
    adapt(**small_job.arguments(tmp_path, model=model, method="full") | {"settings": {"epochs": 1}})
    assert model.fingerprint == before


def test_a_lost_ledger_loses_no_model(small_job: Any, model: LanguageModel, tmp_path: Path) -> None:
    first = adapt(**small_job.arguments(tmp_path, model=model))
    tensors = (first.folder / "adapter_model.safetensors").read_bytes()
    (tmp_path / "keeps.db").unlink()
    again = adapt(**small_job.arguments(tmp_path, model=model))
    assert (again.run_id, again.reused) == (first.run_id, False)
    assert again.diff.items == first.diff.items
    assert (again.folder / "adapter_model.safetensors").read_bytes() == tensors


def test_a_run_folder_of_another_version_is_refused(small_job: Any, model: LanguageModel, tmp_path: Path) -> None:
    first = adapt(**small_job.arguments(tmp_path, model=model))
    (tmp_path / "keeps.db").unlink()
    path = first.folder / "change.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(StorageError, match="format 99"):
        adapt(**small_job.arguments(tmp_path, model=model))
    assert json.loads(path.read_text())["format"] == 99


def test_a_failed_run_says_so_in_the_ledger_and_keeps_its_last_good_state(
    small_job: Any, model: LanguageModel, tmp_path: Path
) -> None:
    before = model.fingerprint
    settings = {**small_job.settings, "learning_rate": 9.0, "alpha": 1e30}
    arguments = small_job.arguments(tmp_path, model=model) | {"settings": settings}
    with pytest.raises(TrainingError, match="lower learning_rate"):
        adapt(**arguments)
    assert model.fingerprint == before
    with Workspace(tmp_path).ledger(read_only=True) as ledger:
        [run] = ledger.runs()
    assert run.status == "failed"
    [partial] = (tmp_path / "runs").iterdir()
    assert partial.name == f"{run.id}.partial"
    [checkpoint] = (partial / "checkpoint").glob("step-*.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in load_tensors(checkpoint).values())
    with pytest.raises(InterruptedRunError, match="failed before"):
        adapt(**arguments)


def test_settings_of_another_method_are_refused(small_job: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not the settings of lora"):
        adapt(**small_job.arguments(tmp_path, model="no such model") | {"settings": FullSettings()})


class StoppedError(BaseException):
    """What a signal does to a program, at a chosen moment."""


class Stopping:
    """Progress that stops the program in its third training step."""

    def message(self, text: str) -> None: ...

    @contextmanager
    def task(self, description: str, total: float | None, done: float = 0) -> Iterator[Any]:
        del total
        left = [3 if description == "training" else 10**6]

        class Task:
            def advance(self, amount: float = 1) -> None:
                left[0] -= 1
                if left[0] == 0:
                    raise StoppedError(f"{description} after {done + amount}")

            def note(self, text: str) -> None: ...

        yield Task()


def test_an_interrupted_run_waits_for_a_word_and_ends_the_same(
    small_job: Any, model: LanguageModel, tmp_path: Path
) -> None:
    arguments = small_job.arguments(tmp_path / "cut", model=model)
    arguments["settings"] = {**small_job.settings, "checkpoint_every": 0}
    with pytest.raises(StoppedError):
        adapt(**arguments, progress=Stopping())
    with Workspace(tmp_path / "cut").ledger(read_only=True) as ledger:
        assert [run.status for run in ledger.runs()] == ["running"]
    with pytest.raises(InterruptedRunError, match="continue it with --resume, or begin anew with --restart"):
        adapt(**arguments)
    done = adapt(**arguments, resume=True)
    fresh = adapt(**arguments | {"workspace": tmp_path / "fresh"})
    assert (done.run_id, done.diff.items) == (fresh.run_id, fresh.diff.items)
    name = "adapter_model.safetensors"
    assert (done.folder / name).read_bytes() == (fresh.folder / name).read_bytes()


def test_restart_throws_an_interrupted_run_away(small_job: Any, model: LanguageModel, tmp_path: Path) -> None:
    arguments = small_job.arguments(tmp_path, model=model)
    done = adapt(**arguments)
    wanted = (done.folder / "adapter_model.safetensors").read_bytes()
    partial = Workspace(tmp_path).partial_folder(done.run_id)
    done.folder.rename(partial)
    (partial / "leftover").write_text("of an attempt that died")
    with pytest.raises(InterruptedRunError):
        adapt(**arguments)
    again = adapt(**arguments, restart=True)
    assert (again.folder / "adapter_model.safetensors").read_bytes() == wanted
    assert not (again.folder / "leftover").exists()
    with pytest.raises(SettingsError, match="contradict"):
        adapt(**arguments, resume=True, restart=True)


def test_a_method_gets_the_train_part_only(
    small_job: Any, model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[RecordSet] = []

    class SeenError(Exception):
        pass

    def method(self: Any, model: Any, learn: RecordSet, keep: RecordSet, *, run: Run) -> Any:
        del self, model, learn, run
        given.append(keep)
        raise SeenError

    monkeypatch.setattr(LoRA, "__call__", method)
    with pytest.raises(SeenError):
        adapt(**small_job.arguments(tmp_path, model=model))
    assert {record.split for record in given[0]} == {"train"}
    assert any(isinstance(record, Example) for record in given[0])
    assert not list((tmp_path / "runs").iterdir()), "an attempt that left nothing leaves no folder"
