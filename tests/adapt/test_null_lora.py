"""Null-space LoRA: the contract, that A never leaves the room, and that the bound is kept and told."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import keeps.adapt.null_lora as module
from keeps.adapt.null_lora import REPORT, SPACES, NullLoRA, NullLoRASettings, divided
from keeps.contracts import Run, SilentProgress
from keeps.data.records import Example, Fact, Passage, RecordSet
from keeps.models.adapters import lora_layers
from keeps.models.nullspaces import keep_inside
from keeps.models.targets import find_targets
from keeps.training import adapter
from keeps.training.adapter import wrap

SMALL: dict[str, Any] = {"rank": 2, "targets": "q_proj,k_proj,mlp.down_proj", "energy": 0.9}
BOTH = pytest.mark.parametrize("init", ["lora", "corda"])


class Told(SilentProgress):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


def keep_inputs(contract: Any, records: RecordSet) -> dict[str, torch.Tensor]:
    """What each layer of the base reads on ``records``, token by token, without the code under test."""
    seen: dict[str, list[torch.Tensor]] = {}

    def reader(name: str) -> Any:
        return lambda _, given: seen.setdefault(name, []).append(given[0][0])

    layers = find_targets(contract.model.model, ("all-linear",))
    hooks = [layer.register_forward_pre_hook(reader(name)) for name, layer in layers.items()]
    with torch.no_grad():
        for record in records:
            assert isinstance(record, Example)
            prompt, answer = contract.model.encode_pair(record.prompt, record.answer)
            contract.model.model(input_ids=torch.tensor([[*prompt, *answer]]))
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(rows).double() for name, rows in seen.items()}


@BOTH
def test_it_learns(contract: Any, init: str) -> None:
    contract.check_learns("null_lora", rank=8, energy=0.8, init=init, learning_rate=0.02)


def test_it_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_seeds("null_lora", leash=0.5, leash_batch=2, **SMALL)


@BOTH
def test_its_folder_loads_in_plain_peft(contract: Any, init: str) -> None:
    contract.check_folder("null_lora", init=init, rank=2, alpha=8.0, energy=0.8, rank_pattern={"q_proj": 5})


def test_refused_data_leaves_the_model_alone(contract: Any) -> None:
    contract.check_refused_data_leaves_the_model_alone("null_lora", init="corda", **SMALL)


# --- the room ---------------------------------------------------------------------------------


@BOTH
def test_what_is_written_reads_nothing_of_what_the_keep_set_uses(contract: Any, init: str) -> None:
    change, _ = contract.run("null_lora", init=init, sample_tokens=1, held_out=0, weight_decay=0.1, **SMALL)
    inputs = keep_inputs(contract, contract.keep)
    for name, (a, b) in change.factors().items():
        x = inputs[name]
        values, right = torch.linalg.svd(x, full_matrices=False)[1:]
        shares = values.square().cumsum(0) / values.square().sum()
        used = right[: int((shares < 0.9).sum()) + 1]
        assert float((a.double() @ used.T).abs().max()) < 1e-4 * float(a.norm())
        assert float(b.norm()) > 0.01
        changed = float((change.scaling * x @ a.double().T @ b.double().T).square().sum()) / len(x)
        norm = float(torch.linalg.matrix_norm(change.scaling * (b @ a).double(), 2))
        assert changed <= norm**2 * 0.1 * float(x.square().sum()) / len(x), "the bound as it is stated"


def test_gradients_and_updates_stay_in_the_room_through_adamw(contract: Any) -> None:
    method = NullLoRA(NullLoRASettings(**{**SMALL, "targets": ("q_proj",)}))
    spaces, _ = method._prepared(
        contract.model, method._batches(contract.model, contract.keep, 0), Run(contract.folder)
    )
    wrapped = wrap(contract.model, method.settings, seed=0)
    try:
        after_step = keep_inside(wrapped, spaces)
        weights = {name: layer.lora_A["default"].weight for name, layer in lora_layers(wrapped.peft_model).items()}
        optimiser = torch.optim.AdamW(weights.values(), lr=0.1, weight_decay=0.1)
        for step in range(3):
            sum((weight * torch.randn_like(weight)).sum() for weight in weights.values()).backward()  # type: ignore[union-attr]
            for name, weight in weights.items():
                assert weight.grad is not None
                assert outside(weight.grad, spaces[name].basis) < 1e-5
            optimiser.step()
            assert max(outside(weight, spaces[name].basis) for name, weight in weights.items()) > 1e-3
            after_step(wrapped.peft_model, step, optimiser)
            assert max(outside(weight, spaces[name].basis) for name, weight in weights.items()) < 1e-5
            optimiser.zero_grad()
    finally:
        wrapped.unwrap()


def outside(rows: torch.Tensor, basis: torch.Tensor) -> float:
    """Share of the norm that lies outside the span of ``basis``."""
    rows = rows.detach()
    return float((rows - rows @ basis @ basis.T).norm() / rows.norm())


def test_layers_that_read_one_tensor_share_their_room(contract: Any) -> None:
    method = NullLoRA(NullLoRASettings(**SMALL))
    spaces, _ = method._prepared(
        contract.model, method._batches(contract.model, contract.keep, 0), Run(contract.folder)
    )
    attention = "model.layers.0.self_attn"
    assert spaces[f"{attention}.q_proj"] is spaces[f"{attention}.k_proj"]
    assert spaces[f"{attention}.q_proj"] is not spaces["model.layers.1.self_attn.q_proj"]


def test_room_is_made_for_the_rank_and_said(contract: Any) -> None:
    told = Told()
    run = Run(contract.folder, progress=told)
    settings = NullLoRASettings(rank=4, energy=0.999999, targets=("q_proj",), steps=1)
    NullLoRA(settings)(contract.model, contract.learn, contract.keep, run=run)
    assert run.measures["room_made"] > 0
    assert run.measures["residual_energy"] > 1e-6
    assert any("have less room than the rank" in text for text in told.texts)


# --- the bound --------------------------------------------------------------------------------


@BOTH
def test_the_bound_is_told_before_training_and_checked_after_it(contract: Any, init: str) -> None:
    told = Told()
    run = Run(contract.folder, progress=told)
    settings = NullLoRASettings(init=init, held_out=0.4, sample_tokens=1, epochs=2, batch_size=4, **SMALL)
    change = NullLoRA(settings)(contract.model, contract.learn, contract.keep, run=run)
    assert "of the keep set's energy" in told.texts[0]
    assert "bound" in told.texts[-1]
    assert "held-out subjects" in told.texts[-1]
    measures = change.record.measures
    assert measures["above_bound_calibrated"] == 0
    assert 0 < measures["change_calibrated"] < measures["bound"]
    assert measures["nearest_bound_calibrated"] <= 1
    assert measures["change_held_out"] > 0
    assert measures["residual_energy"] <= 0.1 * (1 + 1e-4)

    rows = json.loads((change.folder / REPORT).read_text())
    calibrated, checked = divided(contract.keep, 0.4)
    for records, part in ((calibrated, "calibrated"), (checked, "held_out")):
        inputs = keep_inputs(contract, records)
        for name, (a, b) in change.factors().items():
            x = inputs[name]
            moved = float((change.scaling * x @ a.double().T @ b.double().T).square().sum()) / len(x)
            assert rows[name][f"change_{part}"] == pytest.approx(moved, rel=1e-3)
            weight = contract.model.model.get_submodule(name).weight.detach().double()
            assert rows[name][f"output_{part}"] == pytest.approx(
                float((x @ weight.T).square().sum()) / len(x), rel=1e-3
            )
            if part == "calibrated":
                assert moved <= rows[name]["bound"] * (1 + 1e-4)
                assert rows[name]["residual_calibrated"] == pytest.approx(rows[name]["residual"], rel=1e-2)
    assert not (change.folder / SPACES).exists()


def test_the_keep_set_is_divided_by_subject_alone() -> None:
    facts = [Fact(f"{r}{n}", f"subject {n}", r, ("p",), ("a",)) for n in range(200) for r in ("x", "y")]
    keep = RecordSet(
        "k", (*facts, Passage("t1", "one", "topic"), Passage("t2", "two", "topic"), Example("e", "q", "a"))
    )
    calibrated, held = divided(keep, 0.25)
    assert len(calibrated) + len(held) == len(keep)
    assert 0.15 * len(keep) < len(held) < 0.35 * len(keep)
    subjects = [{getattr(record, "subject", record.id) for record in part} for part in (calibrated, held)]
    assert not subjects[0] & subjects[1]
    assert divided(keep, 0.0) == (keep, RecordSet("k", ()))
    lone = RecordSet("k", (Example("e", "q", "a"),))
    assert divided(lone, 0.5)[0] == lone, "one subject is calibrated on, whatever its hash"


def test_nothing_held_out_leaves_that_check_out(contract: Any) -> None:
    change, run = contract.run("null_lora", held_out=0, steps=1, **SMALL)
    assert "change_calibrated" in run.measures
    assert not any("held_out" in name for name in run.measures)
    assert not any(
        "held_out" in key for row in json.loads((change.folder / REPORT).read_text()).values() for key in row
    )


# --- the combinations -------------------------------------------------------------------------


def test_the_corda_start_is_in_the_room_and_changes_nothing(contract: Any) -> None:
    method = NullLoRA(NullLoRASettings(init="corda", **SMALL))
    run = Run(contract.folder)
    spaces, starts = method._prepared(contract.model, method._batches(contract.model, contract.keep, 0), run)
    for name, start in starts.items():
        assert outside(start.a.float(), spaces[name].basis) < 1e-5
        assert float(start.a.norm()) == pytest.approx(float(start.b.norm()))
        assert float(start.b.norm()) > 0
    ids = torch.arange(2, 30)[None]
    wrapped = wrap(contract.model, method.settings, seed=0)
    with torch.no_grad():
        adapter.set_starts(wrapped, starts, run)
        keep_inside(wrapped, spaces)
        reduced = wrapped.peft_model(ids).logits
        wrapped.unwrap()
        torch.testing.assert_close(reduced, contract.model.model(ids).logits, atol=1e-4, rtol=1e-4)


def test_the_leash_is_on_the_calibrated_records(contract: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = module.leash

    def recorded(model: Any, keep: RecordSet, **options: Any) -> Any:
        asked.append((keep.records, options["weight"], options["batch_size"]))
        return real(model, keep, **options)

    monkeypatch.setattr(module, "leash", recorded)
    free, _ = contract.run("null_lora", steps=3, **SMALL)
    assert asked == []
    held, _ = contract.run("null_lora", steps=3, leash=3.0, leash_batch=4, **SMALL)
    assert asked == [(divided(contract.keep, 0.125)[0].records, 3.0, 4)]
    pairs = zip(free.factors().values(), held.factors().values(), strict=True)
    assert any(not torch.equal(one[1], other[1]) for one, other in pairs)
