"""RMU: the contract, which layers move, and layers that are not one block."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from keeps.errors import SettingsError, TargetError
from keeps.models.adapter_files import read_factors
from keeps.numerics.forgetting_losses import random_direction
from keeps.training.batches import collate, stable_seed
from keeps.training.forgetting import block_states
from keeps.training.unlearn import forget_examples
from keeps.unlearn.rmu import RMUSettings, block_number
from keeps.weights import load_tensors

SMALL: dict[str, Any] = {"layer": "1", "coefficient": 20.0, "retain_weight": 1.0}


def states(contract: Any, change: Any = None) -> torch.Tensor:
    """Hidden states behind block 1 where answers of the forget set are predicted."""
    batch = collate(forget_examples(contract.model, contract.forget), contract.model.encoder.pad_token_id)
    model = contract.model if change is None else change.apply(contract.model)
    try:
        with torch.no_grad():
            return block_states(model.model, 1, batch)
    finally:
        if change is not None:
            model.undo()


def test_states_go_to_the_direction_and_depend_on_the_seed_alone(contract: Any) -> None:
    change, run = contract.run("rmu", **SMALL, epochs=15, rank=8)
    wanted = 20.0 * random_direction(32, stable_seed("rmu", 0))
    before, after = states(contract), states(contract, change)
    assert float((after - wanted).square().mean()) < 0.5 * float((before - wanted).square().mean())
    assert run.measures["block"] == 1
    contract.check_folder("rmu", **SMALL)


def test_bad_sets_are_refused(contract: Any) -> None:
    contract.check_refusals("rmu", **SMALL)


@pytest.mark.parametrize("positions", ["all", "answer"])
def test_its_first_loss_is_the_mean_square_over_the_tokens_up_to_the_last(contract: Any, positions: str) -> None:
    settings = {**SMALL, "layer": "0", "positions": positions}
    _, run = contract.run("rmu", **settings, epochs=1, batch_size=8)
    found = []
    for example in forget_examples(contract.model, contract.forget):
        with torch.no_grad():
            whole = contract.model.model(input_ids=torch.tensor([example.input_ids]), output_hidden_states=True)
        found.append(whole.hidden_states[1][0, 0 if positions == "all" else example.answer_start :])
    wanted = 20.0 * random_direction(32, stable_seed("rmu", 0))
    first = next(value for name, step, value in run.curves if name == "loss" and step == 1)
    assert first == pytest.approx(float((torch.cat(found) - wanted).square().mean()), rel=1e-4)


def test_states_are_those_that_leave_the_block(contract: Any) -> None:
    batch = collate(forget_examples(contract.model, contract.forget), contract.model.encoder.pad_token_id)
    with torch.no_grad():
        found = block_states(contract.model.model, 0, batch)
        whole = contract.model.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True
        )
    torch.testing.assert_close(found, whole.hidden_states[1][batch.predicting])
    assert len(contract.model.model.get_decoder().layers) == 2, "the model is whole again"


def test_only_the_down_projections_move(contract: Any) -> None:
    change, _ = contract.run("rmu", **SMALL, rank=2)
    assert set(read_factors(change.folder)) == {f"model.layers.{n}.mlp.down_proj" for n in (0, 1)}
    assert change.record.settings["targets"] == ["all-linear"]
    whole, _ = contract.run("rmu", **SMALL, parameters="full", learning_rate=1e-3)
    tensors = load_tensors(whole.folder / "model.safetensors")
    moved = {
        name
        for name, value in contract.model.model.named_parameters()
        if name in tensors and not torch.equal(tensors[name], value)
    }
    assert moved == {f"model.layers.{n}.mlp.down_proj.weight" for n in (0, 1)}


@pytest.mark.parametrize(("layer", "number"), [(None, 0), ("1", 1), ("layers.1", 1), ("model.layers.0", 0)])
def test_a_layer_is_a_number_or_a_name(contract: Any, layer: str | None, number: int) -> None:
    assert block_number(contract.model.model, layer) == number


@pytest.mark.parametrize(("layer", "message"), [("2", "no block 2"), ("mlp", "matches 2"), ("nothing", "matches 0")])
def test_a_layer_that_is_not_one_block_is_refused(contract: Any, layer: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        contract.run("rmu", layer=layer)


@pytest.mark.parametrize("values", [{"coefficient": 0}, {"retain_loss": "kl"}, {"targets": "q_proj"}])
def test_settings_without_effect_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))):
        RMUSettings.from_mapping(values)
