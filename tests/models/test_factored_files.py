"""Pieces on disk: exports, and damage that leaves the model as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fine_tune_folders import same_bits, state_of
from pico_models import pico

from keeps.contracts import Run
from keeps.data.records import Passage, RecordSet
from keeps.errors import KeepsError, SettingsError, StorageError
from keeps.merge.factorize import Factorize, FactorizeSettings
from keeps.models import LanguageModel
from keeps.models.changes import load_change
from keeps.models.factored_files import (
    CONFIG_FILE,
    FACTORED_FILE,
    FactoredChange,
    attach_factored,
    dense_weights,
    write_factored,
)
from keeps.models.factored_layers import FactorConfig, layer_names, put_factored
from keeps.models.logits import check_logits, largest_difference
from keeps.numerics.factoring import random_order
from keeps.weights.files import load_tensors, save_tensors

TEXTS = RecordSet("two", tuple(Passage(f"p{n}", "The town of Oslo is in Norway, and it is cold.", "p") for n in (1, 2)))
Made = tuple[LanguageModel, FactoredChange]


@pytest.fixture(scope="module")
def made(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Trained pieces of a tiny model in a random order."""
    model = pico("llama", tokenizer)
    settings = FactorizeSettings(split="random", steps=3, learning_rate=1e-2)
    return model, Factorize(settings)(model, TEXTS, run=Run(tmp_path_factory.mktemp("pieces")))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("experts", [4, 5])
def test_cutting_and_joining_gives_the_very_weights(kind: str, experts: int, tokenizer: Any, tmp_path: Path) -> None:
    """Untrained pieces of their own, padded where five do not fit, through the files: all of it is the base again."""
    model = pico(kind, tokenizer)
    state = state_of(model)
    names = layer_names(model.model)
    channels = 32 if kind == "gpt2" else 48
    order = random_order(channels + -channels % experts, 5)
    wrapped = put_factored(model.model, FactorConfig(experts, 2), dict.fromkeys(names, order), own=True, pad=True)
    for layer in wrapped.layers.values():
        layer.start()
    write_factored(tmp_path, wrapped)
    wrapped.unwrap()
    attached = attach_factored(model.model, tmp_path)
    found = dict(dense_weights(attached))
    attached.unwrap()
    assert len(found) == 3 * 3  # W_g, W_u, W_d; of GPT-2 W_u, b_u, W_d
    for name, tensor in found.items():
        assert torch.equal(tensor, state[name])


def test_trained_pieces_are_exported_whole_and_joined(made: Made, tmp_path: Path) -> None:
    model, change = made
    state = state_of(model)
    assert change.export("factored", tmp_path / "pieces", model=model) == 0
    apart = change.export("merged", tmp_path / "dense", model=model)
    assert apart > 0.01  # two of four against all of them
    assert same_bits(model, state)
    loaded = LanguageModel.load(tmp_path / "dense")
    wrapped = attach_factored(model.model, change.folder)
    wanted = dict(dense_weights(wrapped))
    wrapped.unwrap()
    parameters = dict(loaded.model.named_parameters())
    assert all(torch.equal(parameters[name], tensor) for name, tensor in wanted.items())
    with pytest.raises(SettingsError, match="depends on the token"):
        change.export("lora", tmp_path / "lora", model=model)


def test_untrained_pieces_are_a_small_file_and_are_not_written_as_a_checkpoint(
    made: Made, tmp_path: Path, tokenizer: Any
) -> None:
    model = made[0]
    folder = tmp_path / "run"
    folder.mkdir()
    change = Factorize(FactorizeSettings(train="router", steps=2))(model, TEXTS, run=Run(folder))
    assert not change.trained
    tensors = load_tensors(folder / FACTORED_FILE)
    assert sum(tensor.numel() for tensor in tensors.values()) == 3 * (4 * 32 + 4)
    with pytest.raises(SettingsError, match="the base again"):
        change.export("merged", tmp_path / "dense", model=model)
    with pytest.raises(StorageError, match="made for a base"):
        change.apply(pico("llama", tokenizer, seed=9))


def test_damaged_files_are_refused_and_the_model_stays_as_it_is(made: Made, tmp_path: Path) -> None:
    model, change = made
    state = state_of(model)
    numbers = iter(range(99))

    def damaged(damage: Callable[[Path], object]) -> None:
        folder = tmp_path / str(next(numbers))
        shutil.copytree(change.folder, folder)
        damage(folder)
        with pytest.raises(KeepsError):
            load_change(folder).apply(model)
        assert same_bits(model, state)

    def altered(**changes: Any) -> Callable[[Path], object]:
        def damage(folder: Path) -> None:
            tensors = load_tensors(folder / FACTORED_FILE)
            for name, value in changes.items():
                key = f"model.layers.1.mlp.{name}"
                tensors.pop(key)
                if value is not None:
                    tensors[key] = value
            save_tensors(folder / FACTORED_FILE, tensors)

        return damage

    for name in (FACTORED_FILE, CONFIG_FILE, "change.json"):
        damaged(lambda folder, name=name: (folder / name).unlink())
        damaged(lambda folder, name=name: (folder / name).write_bytes((folder / name).read_bytes()[:-60]))
    damaged(lambda folder: (folder / CONFIG_FILE).write_text(json.dumps({"format": 9})))
    damaged(lambda folder: (folder / CONFIG_FILE).write_text(json.dumps({"format": 1, "experts": 4, "active": 9})))
    damaged(lambda folder: (folder / CONFIG_FILE).write_text(json.dumps({"format": 1, "experts": 3, "active": 2})))
    damaged(lambda folder: save_tensors(folder / FACTORED_FILE, {"x.up": torch.ones(2)}))
    damaged(altered(router=torch.ones(4, 31)))
    damaged(altered(router=None))
    damaged(altered(up=None))
    damaged(altered(gate=None))
    damaged(altered(down=torch.ones(32, 52)))
    damaged(altered(order=torch.zeros(48, dtype=torch.int32)))
    damaged(altered(order=torch.arange(47, dtype=torch.int32)))


def test_a_disk_that_fails_while_writing_leaves_the_base_and_no_change(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pico("llama", tokenizer)
    state, logits = state_of(model), check_logits(model.model, tokenizer)

    def full(*_: Any, **__: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr("keeps.models.factored_files.save_tensors", full)
    with pytest.raises(StorageError, match="full"):
        Factorize(FactorizeSettings(steps=1))(model, TEXTS, run=Run(tmp_path))
    assert not (tmp_path / "change.json").exists()
    assert same_bits(model, state)
    assert largest_difference(check_logits(model.model, tokenizer), logits) == 0
