"""FT-M and what it shares with FT-L: the loss, the limit, the order, and an exact update on disk."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.edit.ft import FTM, FTSettings
from keeps.errors import RecordError, SettingsError, TargetError
from keeps.models import LanguageModel
from keeps.models.adapter_files import read_factors
from keeps.models.changes import load_change
from keeps.models.edit_files import read_entries, withdraw
from keeps.models.locate import mlp_outputs
from keeps.training.edit_losses import edit_batch, target_loss

NewRun = Callable[..., Run]
QUICK: dict[str, Any] = {"learning_rate": 0.05, "steps": 40}


@pytest.fixture(scope="module")
def model(tiny_llama_folder: Path) -> LanguageModel:
    return LanguageModel.load(tiny_llama_folder)


def gpt2(smollm2: LanguageModel) -> LanguageModel:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=len(smollm2.tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LanguageModel(GPT2LMHeadModel(config).eval(), smollm2.tokenizer, name="tiny-gpt2")


def logarithm(model: Any, edits: tuple[Edit, ...]) -> float:
    """Geometric mean over the tokens, then over the edits, as a logarithm."""
    scores = model.logprob([edit.prompt for edit in edits], [edit.target_new for edit in edits])
    return sum(score.logprob / score.tokens for score in scores) / len(scores)


def test_the_loss_is_the_mean_over_the_target_tokens(model: LanguageModel) -> None:
    prompts, targets = ["Oslo is the capital of", "Lima lies in"], ["the Kingdom of Sweden", "Chile"]
    batch = edit_batch(model, prompts, targets)
    scores = model.logprob(prompts, targets)
    wanted = -sum(score.logprob for score in scores) / sum(score.tokens for score in scores)
    assert float(target_loss(model, batch)) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("order", ["batch", "sequential"])
def test_the_edits_take_and_what_lies_on_disk_is_the_whole_change(
    model: LanguageModel, edits: tuple[Edit, ...], new_run: NewRun, order: str
) -> None:
    before, start = model.fingerprint, logarithm(model, edits)
    change = FTM(FTSettings(order=order, **QUICK))(model, edits, run=new_run())
    assert model.fingerprint == before
    entries = read_entries(change.folder)
    changed = load_change(change.folder).apply(model)
    after = logarithm(changed, edits)
    stored = sum(math.log(entry.measured["probability"]) for entry in entries) / len(entries)
    assert after == pytest.approx(stored, abs=1e-3)
    assert after > start + (8 if order == "batch" else 4)
    changed.undo()
    assert model.fingerprint == before
    assert [entry.id for entry in entries] == [edit.id for edit in edits]


def test_one_layer_changes_and_no_entry_by_more_than_the_limit(
    model: LanguageModel, edits: tuple[Edit, ...], new_run: NewRun
) -> None:
    change = FTM(FTSettings(layer=0, limit=0.003, **QUICK))(model, edits, run=new_run())
    ((name, (a, b)),) = read_factors(change.folder).items()
    assert name == mlp_outputs(model.model)[0].name
    update = b @ a
    assert 0 < float(update.abs().max()) <= 0.003 + 1e-9
    assert change.record.measures["layer"] == 0


def test_transposed_layers_are_edited_alike(smollm2: LanguageModel, edits: tuple[Edit, ...], new_run: NewRun) -> None:
    model = gpt2(smollm2)
    before, start = model.fingerprint, logarithm(model, edits)
    change = FTM(FTSettings(**QUICK))(model, edits, run=new_run())
    changed = change.apply(model)
    assert logarithm(changed, edits) > start + 4
    changed.undo()
    assert model.fingerprint == before


def test_a_shared_update_gives_no_edit_back_alone(
    model: LanguageModel, edits: tuple[Edit, ...], new_run: NewRun, tmp_path: Path
) -> None:
    change = FTM(FTSettings(steps=1))(model, edits, run=new_run())
    with pytest.raises(SettingsError, match="shares its part"):
        withdraw(change.folder, [edits[0].id], tmp_path / "less", model)


def test_bad_edits_and_layers_are_refused(model: LanguageModel, edits: tuple[Edit, ...], new_run: NewRun) -> None:
    with pytest.raises(TargetError, match="no layer 7"):
        FTM(FTSettings(layer=7))(model, edits, run=new_run())
    other = Edit("other", edits[0].subject, edits[0].prompt, "Denmark")
    with pytest.raises(RecordError, match="of one prompt"):
        FTM(FTSettings())(model, (*edits, other), run=new_run("again"))
    with pytest.raises(SettingsError, match="order"):
        FTSettings(order="single")
