"""Ext-Sub: what is written is the expert without the anti-expert's own, of twice the rank."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from keeps.errors import SettingsError
from keeps.models.adapter_files import read_config, read_factors
from keeps.numerics.task_vectors import extracted_before_subtracted
from keeps.unlearn.ext_sub import ExtSub, ExtSubSettings

QUICK: dict[str, Any] = {"rank": 2, "epochs": 2, "learning_rate": 0.003}


def test_the_folder_holds_expert_minus_deficiency_and_is_repeated_to_the_bit(contract: Any) -> None:
    change, run = contract.run("ext_sub", **QUICK, alpha=6.0, strength=0.5)
    again, _ = contract.run("ext_sub", **QUICK, alpha=6.0, strength=0.5)
    method = ExtSub(ExtSubSettings(**QUICK, alpha=6.0, batch_size=4))
    good, bad = (method.learned(contract.model, s, "again", run) for s in (contract.retain, contract.forget))
    assert change.scaling == 1.0
    assert read_config(change.folder)["r"] == 4
    for name, (a, b) in read_factors(change.folder).items():
        expected = extracted_before_subtracted(good[name], bad[name], 0.5)
        torch.testing.assert_close(b @ a, expected[1] @ expected[0])
        assert torch.equal(b, read_factors(again.folder)[name][1])
    assert change.record.measures["export_difference"] < 1e-3
    assert change.record.settings["rank"] == 2


def test_more_of_the_anti_expert_s_own_raises_the_loss_of_the_forget_set(contract: Any) -> None:
    losses = []
    for strength in (0.0, 2.0, 4.0):
        change, _ = contract.run("ext_sub", **{**QUICK, "rank": 4, "epochs": 4}, strength=strength)
        losses.append(contract.losses(change)[0])
    assert losses == sorted(losses), losses


def test_bad_sets_and_settings_are_refused(contract: Any) -> None:
    contract.check_refusals("ext_sub")
    with pytest.raises(SettingsError, match="parameters is full"):
        ExtSubSettings.from_mapping({"parameters": "full"})
    contract.retain = None
    with pytest.raises(SettingsError, match="nothing to retain"):
        contract.run("ext_sub")
