"""Full fine-tuning: the contract, every weight moves, and the result is a whole checkpoint."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from keeps.adapt.full import FullFineTuning, FullSettings
from keeps.errors import InterruptedRunError, StorageError
from keeps.models.changes import CheckpointChange
from keeps.training.settings import TrainingSettings


def test_it_learns(contract: Any) -> None:
    contract.check_learns("full")


def test_it_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_seeds("full")


def test_its_folder_loads_in_plain_transformers(contract: Any) -> None:
    contract.check_folder("full")


def test_refused_data_leaves_the_model_alone(contract: Any) -> None:
    contract.check_refused_data_leaves_the_model_alone("full")


def test_every_weight_is_trained_even_one_that_was_frozen(contract: Any) -> None:
    model = contract.model
    frozen = model.model.get_parameter("model.norm.weight")
    frozen.requires_grad_(False)
    try:
        change, run = contract.run("full")
        assert not frozen.requires_grad, "as it was"
    finally:
        frozen.requires_grad_(True)
    assert isinstance(change, CheckpointChange)
    originals = {name: parameter.detach().clone() for name, parameter in model.model.named_parameters()}
    changed = change.apply(model)
    moved = [not torch.equal(parameter, originals[name]) for name, parameter in changed.model.named_parameters()]
    changed.undo()
    assert all(moved)
    assert run.measures["trained_parameters"] == sum(parameter.numel() for parameter in originals.values())


def test_the_weights_come_back_when_training_is_stopped(contract: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import keeps.training.whole as module

    def stopped(trained: Any, *_: Any, **__: Any) -> None:
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter += 1
        raise InterruptedRunError("stopped")

    monkeypatch.setattr(module, "train", stopped)
    with pytest.raises(InterruptedRunError):
        contract.run("full")


def test_the_weights_come_back_when_the_disk_is_full(contract: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(contract.model.model, "save_pretrained", full_disk)
    with pytest.raises(StorageError, match="disk is full"):
        contract.run("full")


def test_its_learning_rate_is_a_tenth_of_an_adapters() -> None:
    assert FullFineTuning.Settings is FullSettings
    assert FullSettings().learning_rate == pytest.approx(TrainingSettings().learning_rate / 10)
