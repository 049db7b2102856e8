"""What to merge with: real merges, judged here by how near they are to each parent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fine_tune_folders import PROMPTS, moved, whole_folder
from merge_models import family
from pico_models import pico

import keeps.jobs.suggesting as tested
from keeps.cli.main import main
from keeps.data.records import RecordSet
from keeps.errors import KeepsError, SettingsError, UnknownNameError
from keeps.jobs.merging import merge
from keeps.jobs.suggesting import Suggestion, suggest
from keeps.jobs.suggesting_ways import FIRST, Trial, around, ways
from keeps.models.checkpoint_files import save_checkpoint

TASKS = ("sums", "towns")


@pytest.fixture(scope="module")
def place(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A base, two fine-tunes of which the second moved three times as far, questions, and one weight of each."""
    folder = tmp_path_factory.mktemp("suggest")
    model = pico("llama", tokenizer)
    save_checkpoint(model.model, tokenizer, folder / "base")
    name, values = "model.layers.0.mlp.up_proj.weight", {}
    for seed, task in enumerate(TASKS, 1):
        tuned = moved(model, seed, size=0.1 * 3 ** (seed - 1))
        whole_folder(model, folder / task, tuned)
        values[task] = tuned[name]
        lines = [json.dumps({"id": f"{task}{n}", "prompt": p, "answer": " x"}) for n, p in enumerate(PROMPTS[task])]
        (folder / f"{task}.jsonl").write_text("\n".join(lines) + "\n")
    return folder, name, values


@pytest.fixture
def asked(place: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Answers are as good as one weight is near to that of the parent whose questions are asked; logs what is asked."""
    _, name, values = place
    log: list[tuple[str, int]] = []

    def near(model: Any, records: RecordSet) -> float:
        task = next(task for task in TASKS if task in records.source)
        log.append((task, len(records)))
        weight = model.model.get_parameter(name).detach()
        return float(torch.exp(-(weight - values[task]).norm() / values[task].norm()))

    monkeypatch.setattr(tested, "share_answered", near)
    return log


def suggested(place: Any, **options: Any) -> Suggestion:
    folder = place[0]
    given = {"probes": {task: str(folder / f"{task}.jsonl") for task in TASKS}, "workspace": folder / "space"}
    return suggest([str(folder / task) for task in TASKS], str(folder / "base"), **{**given, **options})


def test_the_best_of_the_trials_is_named_with_the_command_that_makes_it(
    place: Any, asked: list[tuple[str, int]], tmp_path: Path
) -> None:
    found = suggested(place, trials=6, out=tmp_path / "out")
    assert len(found.trials) == 6
    assert found.parents == {"sums": 1.0, "towns": 1.0}
    assert found.best.mean == max(trial.mean for trial in found.trials)
    assert found.best.front
    assert found.trials[-1].settings != found.trials[0].settings
    assert "weights" in found.trials[-1].settings or "scale" in found.trials[-1].settings
    assert set(found.held_out) == set(TASKS)
    assert sum(count for task, count in asked[:4] if task == "sums") == 8, "both parts, and no question twice"
    stored = json.loads((tmp_path / "out" / "suggest.json").read_text())
    assert stored["best"]["method"] == found.best.method
    assert (tmp_path / "out" / "front.png").read_bytes().startswith(b"\x89PNG")
    assert main(["merge", *found.words, "--out", str(tmp_path / "merged"), "--quiet"]) == 0
    assert (tmp_path / "merged" / "model.safetensors").exists()


def test_the_command_shows_every_trial(
    place: Any, asked: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = place[0]
    words = ["merge", "suggest", *(f"{task}={folder / task}" for task in TASKS), "--base", str(folder / "base")]
    probes = [word for task in TASKS for word in ("--probe", f"{task}={folder / task}.jsonl")]
    assert main([*words, *probes, "--trials", "2", "--workspace", str(folder / "space"), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "task_arithmetic (scale 0.3)" in said
    assert "average" in said
    assert "keeps merge" in said
    assert asked
    assert main(["merge", "suggest", "--help"]) == 0
    assert "--trials" in capsys.readouterr().out


def test_methods_that_read_texts_are_tried_where_there_are_some() -> None:
    with_texts = {method for method, _ in ways([], TASKS, 8, texts=True)}
    assert {"regmean", "fisher"} <= with_texts
    assert not {"regmean", "fisher"} & {method for method, _ in ways([], TASKS, 30, texts=False)}


def test_no_way_is_tried_twice_and_the_search_goes_towards_the_worst_parent() -> None:
    found: list[Trial] = []
    for method, settings in ways(found, TASKS, 20, texts=False):
        weights = settings.get("weights", (1.0, 1.0))
        worst = 50.0 + 10 * (weights[0] > weights[1]) + 20 * (method == "ties")
        found.append(Trial(method, settings, {"sums": worst, "towns": 90.0}, 0.0))
    assert len(found) == 20
    assert len({trial.label for trial in found}) == 20
    best = max(found, key=lambda trial: trial.mean)
    assert best.method == "ties"
    assert best.settings["weights"][0] > best.settings["weights"][1]


def test_neighbours_change_one_thing() -> None:
    trial = Trial("task_arithmetic", {"scale": 0.5}, {"sums": 10.0, "towns": 90.0}, 0.0)
    found = [settings for _, settings in around(trial, TASKS)]
    assert [settings["scale"] for settings in found[:2]] == [0.7, 0.35]
    assert [settings["weights"] for settings in found[2:]] == [(1.4, 1.0), (1.0, 0.7)]


def test_time_is_a_budget_too(place: Any, asked: list[tuple[str, int]]) -> None:
    assert len(suggested(place, trials=9, minutes=1e-6).trials) == 1
    assert asked


def test_what_cannot_be_judged_is_refused_before_anything_is_merged(place: Any, tmp_path: Path) -> None:
    """With the real judge: a model of random weights answers nothing."""
    folder = place[0]
    one = {"sums": str(folder / "sums.jsonl")}
    cases: list[tuple[dict[str, Any], type[KeepsError], str]] = [
        ({"probes": one}, SettingsError, "--probe towns=FILE"),
        ({"probes": {"other": "x"}}, UnknownNameError, 'questions of "other"'),
        ({"trials": 0}, SettingsError, "no budget"),
        ({}, SettingsError, "none of its own questions"),
    ]
    for options, error, message in cases:
        with pytest.raises(error, match=message):
            suggested(place, **options)
    with pytest.raises(SettingsError, match="one model needs no merge"):
        suggest([str(folder / "sums")], str(folder / "base"), probes=one)


def test_every_usual_way_merges_two_models_of_one_base(tmp_path: Path) -> None:
    """And where a weight or a scale is changed around it, that is a setting which the method has."""
    base, models = family(tmp_path, 2)
    for number, (method, settings) in enumerate(FIRST):
        near = around(Trial(method, settings, {"sums": 10.0, "towns": 90.0}, 0.0), TASKS)
        for place, (_, changed) in enumerate([(method, settings), *near]):
            out = tmp_path / f"out{number}-{place}"
            done = merge([str(model) for model in models], str(base), method=method, settings=changed, out=out)
            assert done.folder == out
