"""UNDIAL: the contract, and that what it learns is its old self with the true token lowered."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from keeps.errors import SettingsError
from keeps.models.projection import selected_logits
from keeps.training.batches import collate
from keeps.training.unlearn import forget_examples
from keeps.unlearn.undial import UNDIALSettings


def test_it_forgets(contract: Any) -> None:
    contract.check_forgets("undial", margin=0.2)


def test_its_folder_loads_and_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_folder("undial")


def test_bad_sets_are_refused(contract: Any) -> None:
    contract.check_refusals("undial")


def test_its_first_loss_is_the_cross_entropy_to_the_lowered_old_model(contract: Any) -> None:
    _, run = contract.run("undial", epochs=1, batch_size=8, beta=3.0)
    model = contract.model
    batch = collate(forget_examples(model, contract.forget), model.encoder.pad_token_id)
    with torch.no_grad():
        logits = selected_logits(model.model, batch.input_ids, batch.attention_mask, batch.predicting).double()
    wanted = logits.clone()
    wanted[range(len(wanted)), batch.targets] -= 3.0
    expected = -(wanted.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
    first = next(value for name, step, value in run.curves if name == "loss" and step == 1)
    assert first == pytest.approx(float(expected), rel=1e-4)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match="beta"):
        UNDIALSettings.from_mapping({"beta": 0})
