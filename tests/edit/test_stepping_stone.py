"""Stepping stones as a method of editing: what is trained on, what is written, and that the model comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import keeps.edit.stepping_stone as module
from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.data.records import Example, RecordSet
from keeps.edit.stepping_stone import SteppingStone, SteppingStoneSettings
from keeps.errors import SettingsError
from keeps.models import LanguageModel
from keeps.models.changes import load_change
from keeps.models.edit_files import read_entries

EDITS = (
    Edit("e1", "Blandgive", "In Blandgive, sleep has the colour", "vermilion"),
    Edit("e2", "Blandgive", "In Blandgive, nothing is", "wordless"),
)
KEEP = RecordSet("keep", tuple(Example(f"k{n}", f"The number after {n} is", str(n + 1)) for n in range(20)))
QUICK: dict[str, Any] = {"epochs": 4, "learning_rate": 0.01, "target": 1.0}


@pytest.fixture(scope="module")
def model(tiny_llama_folder: Path) -> LanguageModel:
    return LanguageModel.load(tiny_llama_folder)


def test_the_rewritten_prompt_is_learned_with_its_fillers_and_the_edit_stays(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[RecordSet] = []
    tune = module.tune

    def spy(model: Any, edits: Any, learn: RecordSet, *rest: Any, **named: Any) -> Any:
        seen.append(learn)
        return tune(model, edits, learn, *rest, **named)

    monkeypatch.setattr(module, "tune", spy)
    before, run = model.fingerprint, Run(tmp_path)
    change = SteppingStone(SteppingStoneSettings(**QUICK))(model, EDITS, KEEP, run=run)
    assert model.fingerprint == before
    (learn,) = seen
    prompts: Any = [record.prompt for record in learn]  # type: ignore[union-attr]
    counts = run.measures["stepping_stones"]
    assert prompts[0].startswith(EDITS[0].prompt)
    assert (prompts[0] != EDITS[0].prompt) == bool(counts["rewritten"])
    assert prompts[1] == EDITS[1].prompt, "nobody describes this word"
    assert len(learn) == 2 + 14
    assert {record.id for record in list(learn)[2:]} <= {record.id for record in KEEP}
    assert counts["prompts"] == 2
    assert [entry.prompt for entry in read_entries(change.folder)] == [item.prompt for item in EDITS]


def test_it_teaches_the_rewritten_text_and_undo_gives_back_every_bit(model: LanguageModel, tmp_path: Path) -> None:
    print_before = model.fingerprint
    prompts, targets = [EDITS[1].prompt], [EDITS[1].target_new]
    before = model.logprob(prompts, targets)[0].logprob
    change = SteppingStone(SteppingStoneSettings(**{**QUICK, "epochs": 20}))(model, EDITS, KEEP, run=Run(tmp_path))
    changed = load_change(change.folder).apply(model)
    assert changed.logprob(prompts, targets)[0].logprob > before + 2
    changed.undo()
    assert model.fingerprint == print_before


def test_writers_and_targets_that_are_none_are_refused() -> None:
    with pytest.raises(SettingsError, match="writer"):
        SteppingStoneSettings(writer="poet")
    with pytest.raises(SettingsError, match="target"):
        SteppingStoneSettings(target=0)
