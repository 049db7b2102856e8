"""Recipes: what a file means, and complaints with line numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keeps.cli.adapt import command
from keeps.cli.main import main
from keeps.cli.recipe import arguments, read_recipe
from keeps.cli.run import RECIPE_COMMANDS, override
from keeps.errors import KeepsError
from keeps.registry import find_method

RECIPE = """\
command: adapt
method: corda
learn: [world:unknown:atomic_number, new.jsonl]
seed: 3
workspace: ./runs
resume: yes
rank: 8
settings:
  mode: ipm
  batch-size: 4
"""


def read(text: str, folder: Path) -> dict[str, Any]:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return arguments(read_recipe(path, RECIPE_COMMANDS), command, find_method("corda").settings)


def test_a_recipe_is_the_same_as_the_options(tmp_path: Path) -> None:
    assert read(RECIPE, tmp_path) == {
        "method": "corda",
        "learn": "world:unknown:atomic_number,new.jsonl",
        "seed": 3,
        "workspace": Path("runs"),
        "resume": True,
        "settings": {"mode": "ipm", "batch_size": 4, "rank": 8},
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("command: adapt\nlern: x\n", ["line 2", '"lern"', '"learn"']),
        ("command: adapt\nsettings:\n  rnak: 8\n", ["line 3", '"rnak"', '"rank"']),
        ("command: adapt\nrank: 0\n", ["line 2", "rank", ">= 1"]),
        ("command: adapt\nsettings:\n  rank: many\n", ["line 3", "whole number"]),
        ("command: adapt\nrank: 8\nsettings:\n  rank: 4\n", ["line 2", '"rank"', "twice"]),
        ("command: adapt\nseed: 1\nseed: 2\n", ["line 3", '"seed"', "twice", "line 2"]),
        ("command: adapt\nseed: one\n", ["line 2", '"seed"', "whole number"]),
        ("command: adapt\nresume: maybe\n", ["line 2", '"resume"', "true or false"]),
        ("command: adapt\nlearn: {a: b}\n", ["line 2", '"learn"', "text"]),
        ("command: adpat\n", ["line 1", '"adpat"', '"adapt"']),
        ("learn: x\n", ["names no command"]),
        ("command: adapt\nsettings: 3\n", ["line 2", "settings", "mapping"]),
        ("- command: adapt\n", ["mapping"]),
        ("", ["mapping"]),
        ("command: adapt\nlearn: 'x\n", ["line", "YAML"]),
        ("command: adapt\n\tlearn: x\n", ["line 2", "YAML"]),
        ("command: adapt\nlearn: !!python/object:os.system x\n", ["YAML"]),
        ("command: export\nform: merged\n", ["run"]),
        ("command: adapt\nmethod: cordo\n", ['"cordo"', '"corda"']),
    ],
)
def test_a_bad_recipe_is_refused_with_its_line(
    text: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert main(["run", str(path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("keeps: error: ")
    assert message.count("\n") == 1
    assert all(word in message for word in words), message
    assert path.read_text() == text


def test_bytes_that_are_no_text_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"command: \xff\xfe\n")
    assert main(["run", str(path)]) == 2
    assert "UTF-8" in capsys.readouterr().err


def test_assignments_override_the_file_wherever_it_says_them(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    recipe = override(
        read_recipe(path, RECIPE_COMMANDS), {"rank": "4", "mode": "kpm", "settings.epochs": "2", "seed": "9"}
    )
    made = arguments(recipe, command, find_method("corda").settings)
    assert made["seed"] == 9
    assert made["settings"] == {"rank": "4", "mode": "kpm", "batch_size": 4, "epochs": "2"}


def test_a_bad_assignment_is_not_blamed_on_a_line_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    recipe = override(read_recipe(path, RECIPE_COMMANDS), {"rank": "-1"})
    with pytest.raises(KeepsError) as caught:
        arguments(recipe, command, find_method("corda").settings)
    assert "line" not in caught.value.where


def test_run_calls_the_command_that_the_recipe_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}

    def job(model: list[str], data: str, **values: Any) -> Any:
        seen.update(values, model=model, data=data)
        from keeps.jobs.probing import ModelResult, ProbeOutcome
        from keeps.probe import Findings

        return ProbeOutcome("facts", (ModelResult(model[0], "r1", (), reused=False),), Findings(()))

    monkeypatch.setattr("keeps.jobs.probe", job, raising=False)
    path = tmp_path / "recipe.yaml"
    path.write_text("command: probe\nmodel: ./mine\ndata: [world:capital, q.jsonl]\n")
    assert main(["run", str(path), "--set", "model=./other", "--workspace", str(tmp_path), "--json"]) == 0
    assert (seen["model"], seen["data"], seen["workspace"]) == (["./other"], "world:capital,q.jsonl", tmp_path)
    found = json.loads(capsys.readouterr().out)
    assert found["models"] == [{"model": "./other", "result": "r1", "reused": False, "rows": []}]
