"""Ignore-k as a method of editing: what of each weight changes, what is written, and that the model comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.data.records import Example, RecordSet
from keeps.edit.ignore_k import IgnoreK, IgnoreKSettings
from keeps.errors import KeepsError, SettingsError
from keeps.models import LanguageModel
from keeps.models.changes import load_change
from keeps.models.checkpoint_files import load_checkpoint
from keeps.models.edit_files import read_entries, withdraw
from keeps.numerics.pruning import dropped_count

EDITS = (
    Edit("e1", "Oslo", "Oslo is the capital of", "Sweden", "Norway"),
    Edit("e2", "Paris", "Paris is the capital of", "Spain", "France"),
)
KEEP = RecordSet("keep", tuple(Example(f"k{n}", f"The number after {n} is", str(n + 1)) for n in range(20)))
QUICK: dict[str, Any] = {"epochs": 6, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def model(tiny_llama_folder: Path) -> LanguageModel:
    return LanguageModel.load(tiny_llama_folder)


def edit(model: LanguageModel, folder: Path, keep: RecordSet | None = KEEP, **settings: Any) -> Any:
    folder.mkdir(exist_ok=True)
    return IgnoreK(IgnoreKSettings(**{**QUICK, **settings}))(model, EDITS, keep, run=Run(folder))


@pytest.mark.parametrize("percent", [8.0, 50.0])
def test_the_dropped_share_of_every_weight_is_that_of_the_base(
    model: LanguageModel, tmp_path: Path, percent: float
) -> None:
    before = model.fingerprint
    change = edit(model, tmp_path / "run", ignore_top=percent)
    assert model.fingerprint == before
    written = dict(load_checkpoint(change.folder, model.model).named_parameters())
    for name, value in model.model.named_parameters():
        same = int((written[name] == value).sum())
        assert same >= dropped_count(value.numel(), percent), name
        assert same < value.numel(), name


def test_it_teaches_and_undo_gives_back_every_bit(model: LanguageModel, tmp_path: Path) -> None:
    prompts, targets = [item.prompt for item in EDITS], [item.target_new for item in EDITS]
    before, print_before = model.logprob(prompts, targets), model.fingerprint
    change = edit(model, tmp_path / "run", epochs=20)
    changed = load_change(change.folder).apply(model)
    after = changed.logprob(prompts, targets)
    assert all(new.logprob > old.logprob + 2 for old, new in zip(before, after, strict=True))
    changed.undo()
    assert model.fingerprint == print_before


def test_each_edit_comes_with_its_fillers_and_all_is_written_down(model: LanguageModel, tmp_path: Path) -> None:
    change = edit(model, tmp_path / "a", fillers=3)
    assert change.record.measures["steps"] == 6  # 2 edits and 6 fillers in a batch of 8
    assert change.record.data["keep"] == KEEP.fingerprint
    assert [entry.id for entry in read_entries(change.folder)] == ["e1", "e2"]
    alone = edit(model, tmp_path / "b", keep=None)
    assert "keep" not in alone.record.data
    with pytest.raises(SettingsError, match="shares its part"):
        withdraw(change.folder, ["e1"], tmp_path / "c", model)


def test_a_seed_repeats_the_run_bit_by_bit(model: LanguageModel, tmp_path: Path) -> None:
    one, other = edit(model, tmp_path / "a").folder, edit(model, tmp_path / "b").folder
    left, right = (dict(load_checkpoint(folder, model.model).named_parameters()) for folder in (one, other))
    assert all(torch.equal(value, right[name]) for name, value in left.items())


def test_what_would_do_nothing_and_edits_that_contradict_themselves_are_refused(
    model: LanguageModel, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="> 0"):
        IgnoreKSettings(ignore_top=0)
    with pytest.raises(SettingsError, match="order"):
        IgnoreKSettings(order="sequential")
    with pytest.raises(KeepsError, match="both"):
        IgnoreK(IgnoreKSettings())(model, (Edit("e", "Oslo", "Oslo is in", "Norway", "Norway"),), run=Run(tmp_path))
