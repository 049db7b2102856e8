"""Merges with a running model, as commands, recipes and Python start them: what comes of each, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fine_tune_folders import PROMPTS, fine_tunes
from pico_models import pico

import keeps
from keeps.cli.main import main
from keeps.errors import KeepsError, ModelLoadError, SettingsError, StorageError, UnknownNameError
from keeps.jobs.merging_learned import named_model, named_texts
from keeps.models import LanguageModel
from keeps.models.changes import load_change
from keeps.models.checkpoint_files import save_checkpoint
from keeps.weights import load_tensors

QUICK = {
    "twin": {"epochs": 5, "hidden": 8, "density": 0.2},
    "fisher": {"examples": 1},
    "regmean": {"examples": 2},
    "adamerging": {"steps": 1, "batch_size": 2},
    "emr": {},
    "skillpack": {"rounding": "nearest"},
}


@pytest.fixture(scope="module")
def place(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``base``, the fine-tunes ``sums``, ``towns`` and ``poems``, and a file of texts for each."""
    folder = tmp_path_factory.mktemp("learned")
    model = pico("llama", tokenizer)
    fine_tunes(model, folder)
    save_checkpoint(model.model, tokenizer, folder / "base")
    for task, prompts in PROMPTS.items():
        lines = [json.dumps({"prompt": prompt, "answer": " that"}) for prompt in prompts]
        (folder / f"{task}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def texts_of(place: Path, *tasks: str) -> dict[str, str]:
    return {task: str(place / f"{task}.jsonl") for task in tasks}


@pytest.mark.parametrize("method", sorted(QUICK))
def test_every_method_leaves_a_change_that_is_asked_and_taken_back(method: str, place: Path, tmp_path: Path) -> None:
    tasks = ("sums",) if method == "skillpack" else ("sums", "towns")
    done = keeps.merge(
        [str(place / task) for task in tasks],
        str(place / "base"),
        method=method,
        settings=QUICK[method],
        texts=texts_of(place, *tasks),
        out=tmp_path / "out",
        workspace=tmp_path / "space",
    )
    assert done.folder == tmp_path / "out"
    assert done.bytes_written > 0
    assert "merge_seconds" in done.measures or "pack_seconds" in done.measures
    assert all(task in (tmp_path / "out" / "README.md").read_text() for task in tasks)
    model = LanguageModel.load(place / "base")
    before = model.fingerprint
    change = load_change(tmp_path / "out")
    assert (change.record.method, change.record.base_model) == (method, str(place / "base"))
    changed: Any = change.apply(model)
    assert changed.fingerprint != before
    assert len(changed.answer(["2 + 3 =", "The town of Oslo is in"])) == 2
    changed.undo()
    assert model.fingerprint == before


def test_the_command_merges_by_name_and_says_what_it_made(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"a={place / 'sums'}", f"b={place / 'towns'}", "--base", str(place / "base"), "--out", str(tmp_path / "o")]
    texts = [
        word for name, task in (("a", "sums"), ("b", "towns")) for word in ("--texts", f"{name}={place / task}.jsonl")
    ]
    options = ["--method", "twin", "--epochs", "3", "--hidden", "8", "--workspace", str(tmp_path / "space")]
    assert main(["merge", *words, *texts, *options, "--dry-run"]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert not (tmp_path / "o").exists()
    assert main(["merge", *words, *texts, *options, "--quiet"]) == 0
    assert str(tmp_path / "o") in capsys.readouterr().out.replace("\n", "")
    assert (tmp_path / "o" / "task_b.safetensors").exists()
    assert main(["merge", *words, *texts, *options]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_recipe_names_models_and_texts_as_mappings(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {
        "command": "merge",
        "method": "regmean",
        "base": str(place / "base"),
        "models": {"a": str(place / "sums"), "b": str(place / "poems")},
        "texts": {"a": str(place / "sums.jsonl"), "b": [str(place / "poems.jsonl")]},
        "out": str(tmp_path / "out"),
        "alpha": 0.5,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["run", str(tmp_path / "recipe.yaml"), "--set", "examples=2", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)["merge"]
    assert found["measures"]["regressed_layers"] == 21
    change = load_change(tmp_path / "out")
    assert (change.record.settings["alpha"], change.record.settings["examples"]) == (0.5, 2)
    assert {"a", "b", "a: texts", "b: texts"} == set(change.record.data)


def test_the_recipe_of_the_examples_is_read() -> None:
    from keeps.cli.merge import command
    from keeps.cli.recipe import arguments, read_recipe
    from keeps.merge.twin import TwinSettings

    path = Path(__file__).parents[2] / "examples" / "merge_twin.yaml"
    read = arguments(read_recipe(path, ("merge",)), command, TwinSettings)
    assert read["models"] == ["codes=tuned-codes", "discoverers=tuned-discoverers"]
    assert named_texts(read["texts"]) == {"codes": "world:calling_code#40", "discoverers": "world:discoverer#40"}


def test_a_merge_of_files_takes_names_too(place: Path, tmp_path: Path) -> None:
    models = [f"a={place / 'sums'}", f"b={place / 'towns'}"]
    keeps.merge(models, str(place / "base"), out=tmp_path / "named", settings={"scale": 0.5})
    keeps.merge([word[2:] for word in models], str(place / "base"), out=tmp_path / "plain", settings={"scale": 0.5})
    named, plain = (load_tensors(tmp_path / name / "model.safetensors") for name in ("named", "plain"))
    assert all(torch.equal(named[name], plain[name]) for name in plain)


def test_what_is_refused_leaves_nothing(place: Path, tmp_path: Path) -> None:
    base, sums = str(place / "base"), str(place / "sums")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    cases: list[tuple[dict[str, Any], type[KeepsError], str]] = [
        ({"base": None}, SettingsError, "differences from a base"),
        ({"texts": {"town": "x.jsonl"}}, UnknownNameError, 'texts of "town"'),
        ({"texts": None}, SettingsError, "--texts sums=FILE"),
        ({"texts": {"sums": str(place / "absent.jsonl")}}, KeepsError, "absent"),
        ({"dtype": "bfloat16"}, SettingsError, "no use of dtype"),
        ({"resume": True}, SettingsError, "no use of resume"),
        ({"settings": {"alphas": 1}}, UnknownNameError, "alphas"),
        ({"settings": {"alpha": 2}}, SettingsError, "alpha"),
        ({"models": [sums, f"sums={place / 'towns'}"]}, SettingsError, "two fine-tunes"),
        ({"models": []}, SettingsError, "no fine-tune"),
        ({"method": "skillpack", "models": [sums, str(place / "towns")]}, SettingsError, "takes 1 model"),
        ({"method": "ties"}, SettingsError, "no use of texts"),
        ({"models": [str(place / "base")]}, KeepsError, "moved anything"),
        ({"base": str(adapter)}, ModelLoadError, ""),
    ]
    common: dict[str, Any] = {"models": [sums], "base": base, "method": "regmean", "texts": texts_of(place, "sums")}
    for change, error, message in cases:
        given = {**common, **change}
        if given["models"] == [str(place / "base")]:
            given["texts"] = {"base": str(place / "sums.jsonl")}
        with pytest.raises(error, match=message):
            keeps.merge(out=tmp_path / "out", workspace=tmp_path / "space", **given)
        assert sorted(path.name for path in tmp_path.iterdir() if path.name != "space") == ["adapter"], change
    with pytest.raises(SettingsError, match="lie in the model"):
        keeps.merge(out=place / "sums" / "inside", workspace=tmp_path / "space", **common)


def test_a_full_disk_leaves_nothing_half_written(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import keeps.models.merged_files as merged_files

    def full(*_: Any) -> None:
        raise StorageError("the disk is full", mend="free some space")

    monkeypatch.setattr(merged_files, "save_checkpoint", full)
    with pytest.raises(StorageError, match="disk is full"):
        keeps.merge(
            [str(place / "sums")],
            str(place / "base"),
            method="adamerging",
            settings={"steps": 0},
            texts=texts_of(place, "sums"),
            out=tmp_path / "out",
            workspace=tmp_path / "space",
        )
    assert [path.name for path in tmp_path.iterdir() if path.name != "space"] == []


def test_names_are_given_or_those_of_the_folders(tmp_path: Path) -> None:
    assert named_model("law=./a") == ("law", "./a")
    assert named_model("runs/lora-3f/") == ("lora-3f", "runs/lora-3f/")
    (tmp_path / "a=b").mkdir()
    assert named_model(str(tmp_path / "a=b"))[1] == str(tmp_path / "a=b")
    for words, message in ((["law"], "names no task"), (["=x"], "names no task"), (["a=x", "a=y"], "given twice")):
        with pytest.raises(SettingsError, match=message):
            named_texts(words)
