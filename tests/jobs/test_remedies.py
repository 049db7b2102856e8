"""Remedies against leaks as options of keeps adapt: dropped updates, and prompts with stepping stones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keeps.cli.main import main
from keeps.data.records import Example, RecordSet
from keeps.errors import SettingsError
from keeps.jobs.adapting import adapt
from keeps.models import LanguageModel
from keeps.weights import load_tensors

LEARN = RecordSet("mine", tuple(Example(f"m{n}", f"The moons of planet {n} are", str(700 + n)) for n in range(4)))


def test_the_largest_updates_of_an_adapter_stay_at_their_start(
    small_job: Any, model: LanguageModel, tmp_path: Path
) -> None:
    arguments = small_job.arguments(tmp_path, model=model, learn=LEARN)
    plain = adapt(**arguments)
    less = adapt(**arguments | {"settings": {**small_job.settings, "ignore_top": 25}})
    assert plain.run_id != less.run_id
    one, other = (load_tensors(done.folder / "adapter_model.safetensors") for done in (plain, less))
    for name, value in one.items():
        if name.endswith("lora_B.weight"):  # which starts at zero
            zeros = int((other[name] == 0).sum())
            assert zeros >= value.numel() // 4
            kept = other[name] != 0
            assert bool((other[name][kept] == value[kept]).all())
            assert float(other[name].abs().max()) < float(value.abs().max())


def test_prompts_are_rewritten_for_training_and_asked_as_they_are(
    small_job: Any, model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    from keeps.adapt.lora import LoRA

    call = LoRA.__call__

    def spy(self: Any, model: Any, learn: RecordSet, *rest: Any, **named: Any) -> Any:
        seen.append(learn)
        return call(self, model, learn, *rest, **named)

    monkeypatch.setattr(LoRA, "__call__", spy)
    arguments = small_job.arguments(tmp_path, model=model, learn=LEARN)
    plain = adapt(**arguments)
    stones = adapt(**arguments, stepping_stones="templates")
    assert seen[0] == LEARN
    prompts = [record.prompt for record in seen[1]]
    changed = [new for new, old in zip(prompts, LEARN, strict=True) if new != old.prompt]  # type: ignore[union-attr]
    assert changed
    assert all("a whole number" in text or "the number that follows" in text for text in changed)
    assert plain.run_id != stones.run_id
    assert {item.prompt for item in stones.diff.items} == {item.prompt for item in plain.diff.items}


def test_unknown_writers_are_refused_before_a_model_is_loaded() -> None:
    with pytest.raises(SettingsError, match="stepping_stones"):
        adapt(model="no such model", stepping_stones="poet")


def test_the_command_line_has_both(small_job: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--stepping-stones", "templates", "--json")
    assert main(small_job.words(tmp_path, *more, ignore_top=8)) == 0
    document = json.loads(capsys.readouterr().out)
    record = json.loads((Path(document["folder"]) / "change.json").read_text())
    assert record["settings"]["ignore_top"] == 8
    assert main(["adapt", "--spectrum", "--stepping-stones", "templates"]) == 2
    assert "--stepping-stones" in capsys.readouterr().err
