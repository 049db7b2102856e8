"""The KL leash: the contract, that it holds, and that it needs something to hold on to."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from keeps.adapt.kl import KLSettings
from keeps.contracts import Run
from keeps.data.records import RecordSet
from keeps.errors import SettingsError
from keeps.models.projection import read_positions
from keeps.numerics.divergences import kl_divergence
from keeps.training.batches import collate
from keeps.training.examples import tokenise
from keeps.training.keeping import leash
from keeps.training.reference import Reference

QUICK: dict[str, Any] = {"rank": 2, "keep_batch": 4}


def test_it_learns(contract: Any) -> None:
    contract.check_learns("kl", rank=8, keep_batch=4)


def test_it_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_seeds("kl", **QUICK)


def test_its_folder_loads_in_plain_peft(contract: Any) -> None:
    contract.check_folder("kl", keep_batch=4, rank=2, alpha=8.0, rank_pattern={"q_proj": 5})


def test_refused_data_leaves_the_model_alone(contract: Any) -> None:
    contract.check_refused_data_leaves_the_model_alone("kl", **QUICK)


def divergence(contract: Any, change: Any, reference: Reference) -> float:
    """Mean KL(base || changed) over all answer tokens of the keep set."""
    batch = collate(tokenise(contract.model, contract.keep), 2)
    changed = change.apply(contract.model)
    try:
        with torch.no_grad():
            read, head = read_positions(changed.model, batch.input_ids, batch.attention_mask, batch.predicting)
            return float(kl_divergence(reference.logits(batch), head(read)).mean())
    finally:
        changed.undo()


def test_the_tighter_the_leash_the_nearer_the_answers_stay(contract: Any) -> None:
    settings: dict[str, Any] = {"rank": 4, "epochs": 2}
    reference = Reference.of(contract.model, tokenise(contract.model, contract.keep), run=Run(contract.folder))
    plain, _ = contract.run("lora", **settings)
    loose, _ = contract.run("kl", weight=0.2, **settings)
    tight, _ = contract.run("kl", weight=5.0, **settings)
    free, some, little = (divergence(contract, change, reference) for change in (plain, loose, tight))
    assert little < some < free, (free, some, little)
    assert little < 0.7 * free
    assert tight.record.data == {"learn": contract.learn.fingerprint, "keep": contract.keep.fingerprint}


def test_the_leash_is_taken_on_the_untouched_base(contract: Any) -> None:
    held = leash(contract.model, contract.keep, weight=1.0, batch_size=99, run=Run(contract.folder))
    with torch.no_grad():
        assert float(held(contract.model.model)) == pytest.approx(0, abs=1e-6)
    assert held.batch_size == len(held.examples)


@pytest.mark.parametrize("keep", [None, RecordSet("nothing", ())])
def test_without_anything_to_keep_it_is_refused(contract: Any, keep: RecordSet | None) -> None:
    contract.keep = keep
    with pytest.raises(SettingsError, match=r"no data to keep \(kl\): give --keep"):
        contract.run("kl", **QUICK)


@pytest.mark.parametrize("values", [{"weight": 0}, {"keep_batch": 0}, {"window": 2}])
def test_bad_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))):
        KLSettings(**values)
