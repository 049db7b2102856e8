"""LoRA editing: an exact adapter on disk, edits that can be withdrawn, and layers found in any layout."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.edit.lora import LoRAEdit, LoRAEditSettings
from keeps.errors import SettingsError, TargetError
from keeps.models import LanguageModel
from keeps.models.adapter_files import read_factors
from keeps.models.attention_layers import attention_inputs
from keeps.models.changes import load_change
from keeps.models.edit_files import read_entries, withdraw

NewRun = Callable[..., Run]
QUICK: dict[str, Any] = {"rank": 4, "alpha": 16.0, "learning_rate": 0.02, "steps": 60}


@pytest.fixture(scope="module")
def model(tiny_llama_folder: Path) -> LanguageModel:
    return LanguageModel.load(tiny_llama_folder)


def values(model: Any, edits: tuple[Edit, ...]) -> list[float]:
    scores = model.logprob([edit.prompt for edit in edits], [edit.target_new for edit in edits])
    return [score.logprob / score.tokens for score in scores]


@pytest.mark.parametrize("where", ["attention", "mlp"])
def test_the_edits_take_and_what_lies_on_disk_is_the_whole_change(
    model: LanguageModel, edits: tuple[Edit, ...], new_run: NewRun, where: str
) -> None:
    before, start = model.fingerprint, values(model, edits)
    change = LoRAEdit(LoRAEditSettings(where=where, **QUICK))(model, edits, run=new_run())
    assert model.fingerprint == before
    changed = load_change(change.folder).apply(model)
    after = values(changed, edits)
    stored = [math.log(entry.measured["probability"]) for entry in read_entries(change.folder)]
    assert after == pytest.approx(stored, abs=1e-3)
    assert sum(after) > sum(start) + 9
    changed.undo()
    assert model.fingerprint == before
    names = set(read_factors(change.folder))
    assert {name.rpartition(".")[2] for name in names} == (
        {"q_proj", "v_proj"} if where == "attention" else {"down_proj"}
    )
    assert all(a.shape[0] == 4 for a, _ in read_factors(change.folder).values())


def test_in_sequence_every_edit_has_ranks_of_its_own_and_can_be_withdrawn(
    model: LanguageModel, edits: tuple[Edit, ...], new_run: NewRun, tmp_path: Path
) -> None:
    change = LoRAEdit(LoRAEditSettings(order="sequential", **QUICK))(model, edits, run=new_run())
    factors = read_factors(change.folder)
    assert all(a.shape[0] == 4 * len(edits) for a, _ in factors.values())
    less = withdraw(change.folder, [edits[-1].id], tmp_path / "less", model)
    left = read_factors(less.folder)
    for name, (a, b) in factors.items():
        torch.testing.assert_close(left[name][1] @ left[name][0], b[:, :8] @ a[:8])
    first = LoRAEdit(LoRAEditSettings(order="sequential", **QUICK))(model, edits[:2], run=new_run("two"))
    for name, (a, b) in read_factors(first.folder).items():
        torch.testing.assert_close(b @ a, left[name][1] @ left[name][0], atol=1e-5, rtol=1e-4)


def test_a_joint_projection_is_found_in_gpt2(smollm2: LanguageModel, edits: tuple[Edit, ...], new_run: NewRun) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=len(smollm2.tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LanguageModel(GPT2LMHeadModel(config).eval(), smollm2.tokenizer, name="tiny-gpt2")
    refs = attention_inputs(model.model)
    assert [ref.name.rpartition(".")[2] for ref in refs] == ["c_attn", "c_attn"]
    assert all(ref.transposed and ref.out_features == 96 for ref in refs)
    start, before = sum(values(model, edits)), model.fingerprint
    changed = LoRAEdit(LoRAEditSettings(**QUICK))(model, edits, run=new_run()).apply(model)
    assert sum(values(changed, edits)) > start + 6
    changed.undo()
    assert model.fingerprint == before


def test_a_seed_repeats_the_factors_bit_by_bit(model: LanguageModel, edits: tuple[Edit, ...], new_run: NewRun) -> None:
    quick = LoRAEditSettings(**{**QUICK, "steps": 3})
    made = [
        read_factors(LoRAEdit(quick)(model, edits, run=new_run(f"{n}", seed)).folder)
        for n, seed in enumerate((0, 0, 1))
    ]
    assert all(torch.equal(a, made[1][name][0]) for name, (a, _) in made[0].items())
    assert not any(torch.equal(a, made[2][name][0]) for name, (a, _) in made[0].items())


def test_ranks_that_do_not_fit_and_orders_it_cannot_do_are_refused(
    model: LanguageModel, edits: tuple[Edit, ...], new_run: NewRun
) -> None:
    with pytest.raises(TargetError, match="rank 40"):
        LoRAEdit(LoRAEditSettings(rank=40))(model, edits, run=new_run())
    with pytest.raises(SettingsError, match="order"):
        LoRAEditSettings(order="single")


@pytest.mark.parametrize("order", ["batch", "sequential"])
def test_adalora_masks_ranks_and_what_lies_on_disk_is_the_whole_change(
    model: LanguageModel, edits: tuple[Edit, ...], new_run: NewRun, order: str
) -> None:
    before, start, kinds = model.fingerprint, values(model, edits), [type(m) for m in model.model.modules()]
    quick = {"rank": 2, "init_rank": 4, "alpha": 64.0, "learning_rate": 0.05, "steps": 40, "stop_loss": 0.0}
    change = LoRAEdit(LoRAEditSettings(variant="adalora", order=order, **quick))(model, edits, run=new_run())
    assert model.fingerprint == before
    assert [type(m) for m in model.model.modules()] == kinds
    assert not hasattr(model.model, "peft_config")
    adapters = 1 if order == "batch" else len(edits)
    ranks = [len(a) for a, _ in read_factors(change.folder).values()]
    assert sum(ranks) / len(ranks) <= 2 * adapters + 1, "masked to the budget, up to one of zeros where none is left"
    changed = load_change(change.folder).apply(model)
    after = values(changed, edits)
    changed.undo()
    stored = [math.log(entry.measured["probability"]) for entry in read_entries(change.folder)]
    assert after == pytest.approx(stored, abs=1e-3)
    assert sum(after) > sum(start) + 3
    assert model.fingerprint == before


def test_a_first_rank_that_does_nothing_or_is_too_small_is_refused() -> None:
    with pytest.raises(SettingsError, match="variant lora"):
        LoRAEditSettings(init_rank=12)
    with pytest.raises(SettingsError, match="more ranks"):
        LoRAEditSettings(variant="adalora", rank=8, init_rank=8)
    assert LoRAEditSettings(variant="adalora", rank=8).first_rank == 12
