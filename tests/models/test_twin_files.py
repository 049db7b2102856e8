"""A twin on disk: undo, plain checkpoints, exports, and damage that leaves the model as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fine_tune_folders import MIXED, Twins, same_bits, state_of, twin_of_three
from pico_models import pico

from keeps.errors import KeepsError, SettingsError, StorageError, TargetError
from keeps.models import LanguageModel
from keeps.models.changes import load_change
from keeps.models.logits import check_logits, largest_difference
from keeps.models.twin_files import task_file
from keeps.models.twin_layers import wrap_twin
from keeps.numerics.twin import leading


@pytest.fixture(scope="module")
def made(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    """See :func:`twin_of_three`."""
    return twin_of_three(pico("llama", tokenizer), tmp_path_factory.mktemp("twin"))


def test_undoing_gives_the_base_back_bit_for_bit_also_after_use(made: Any) -> None:
    model, change, _, _ = made
    state, flags = state_of(model), [p.requires_grad for p in model.model.parameters()]
    before = model.fingerprint
    logits = check_logits(model.model, model.tokenizer)
    changed = change.apply(model)
    changed.logprob(list(MIXED), ["a", "b", "c"])
    with pytest.raises(StorageError, match="made for a base"):
        change.apply(model)
    changed.undo()
    changed.undo()
    assert same_bits(model, state)
    assert model.fingerprint == before
    assert [p.requires_grad for p in model.model.parameters()] == flags
    assert largest_difference(check_logits(model.model, model.tokenizer), logits) == 0
    assert changed.logprob(["2 +"], ["3"])[0].logprob == model.logprob(["2 +"], ["3"])[0].logprob


def test_a_task_can_be_written_as_a_plain_checkpoint(made: Any, tmp_path: Path) -> None:
    model, change, _, values = made
    state = state_of(model)
    change.write_task("towns", tmp_path / "towns", model)
    loaded = LanguageModel.load(tmp_path / "towns")
    for name, parameter in loaded.model.named_parameters():
        assert float((parameter - values[1][name]).detach().abs().max()) < 1e-5
    assert same_bits(model, state)
    with pytest.raises(SettingsError, match="no task"):
        change.write_task("nonsense", tmp_path / "x", model)


def test_a_twin_is_exported_whole_and_its_shared_expert_as_a_checkpoint(made: Any, tmp_path: Path) -> None:
    model, change, _, _ = made
    state = state_of(model)
    assert change.export("twin", tmp_path / "twin", model=model) == 0
    assert change.export("merged", tmp_path / "shared", model=model) == 0
    assert same_bits(model, state)
    with pytest.raises(SettingsError, match="depend on the prompt"):
        change.export("lora", tmp_path / "lora", model=model)


def test_a_damaged_twin_is_refused_and_the_model_stays_as_it_is(made: Any, tmp_path: Path) -> None:
    model, change, _, _ = made
    state = state_of(model)

    def damaged(number: int, damage: Any) -> None:
        folder = tmp_path / str(number)
        shutil.copytree(change.folder, folder)
        damage(folder)
        with pytest.raises(KeepsError):
            load_change(folder).apply(model)
        assert same_bits(model, state)

    def cut(name: str) -> Any:
        return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])

    names = ("shared.safetensors", "router.safetensors", task_file("towns"), "twin.json", "change.json")
    for number, name in enumerate(names):
        damaged(number, cut(name))
        damaged(20 + number, lambda folder, name=name: (folder / name).unlink())
    damaged(40, lambda folder: (folder / "twin.json").write_text(json.dumps({"format": 9})))
    damaged(41, lambda folder: shutil.copy(folder / task_file("sums"), folder / "shared.safetensors"))
    damaged(42, lambda folder: shutil.copy(folder / "router.safetensors", folder / task_file("sums")))


def test_a_part_that_fits_no_layer_is_refused_and_nothing_stays_wrapped(made: Any) -> None:
    model = made[0]
    state = state_of(model)
    for parts in ({"nonsense": torch.ones(3)}, {"model.norm.weight": leading(torch.ones(32, 2))}):
        with pytest.raises(TargetError):
            wrap_twin(model.model, [parts])
        assert same_bits(model, state)
    good = {"model.layers.0.mlp.up_proj.weight": leading(torch.ones(48, 32))}
    twin = wrap_twin(model.model, [good])
    with pytest.raises(TargetError, match="2 rows"), twin.mixture.of(torch.ones(2, 1)):
        model.model(torch.tensor([[1, 2, 3]]))
    twin.unwrap()
    assert same_bits(model, state)
