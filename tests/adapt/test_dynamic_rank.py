"""CoDyRA: the contract, when and how gates are thresholded, and that only living ranks are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.adapt.dynamic_rank import (
    SHRINKAGE,
    DynamicRank,
    DynamicRankSettings,
    fit_stream,
    gate_starts,
    shrink,
    survival,
    surviving,
)
from keeps.contracts import Run, SilentProgress
from keeps.errors import InterruptedRunError, SettingsError, StorageError
from keeps.models import LanguageModel
from keeps.models.adapters import ADAPTER, lora_layers
from keeps.models.changes import load_change
from keeps.models.gated import add_gates, gates_of
from keeps.models.logits import check_logits, largest_difference
from keeps.training import adapter
from keeps.training.adapter import train_and_write, wrap

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate": 0.01}  # what the contract runs with
SMALL: dict[str, Any] = {"rank": 4, "targets": "q_proj,mlp.down_proj"}
HALF: dict[str, Any] = {**SMALL, "total_shrinkage": 0.6}  # removes a part of the ranks in the few steps of a test


class Told(SilentProgress):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def told(contract: Any, **settings: Any) -> tuple[Any, list[str]]:
    """The change that the method makes, and what it told the user."""
    contract.count += 1
    folder = contract.folder / f"told{contract.count}"
    folder.mkdir()
    progress = Told()
    method = DynamicRank(DynamicRankSettings.from_mapping({"steps": 6, "batch_size": 4, **settings}))
    change = method(contract.model, contract.learn, run=Run(folder, progress=progress))
    return change, progress.messages


def test_it_learns(contract: Any) -> None:
    contract.check_learns("dynamic_rank", rank=8, total_shrinkage=0.2, learning_rate=0.03)


def test_it_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_seeds("dynamic_rank", **HALF, dropout=0.1)


@pytest.mark.parametrize("stabilised", [False, True])
def test_its_folder_loads_in_plain_peft(contract: Any, stabilised: bool) -> None:
    contract.check_folder(
        "dynamic_rank", rank=4, alpha=8.0, rank_stabilised=stabilised, rank_pattern={"q_proj": 6}, total_shrinkage=0.6
    )


def test_refused_data_leaves_the_model_alone(contract: Any) -> None:
    contract.check_refused_data_leaves_the_model_alone("dynamic_rank", **SMALL)


# --- thresholds -------------------------------------------------------------------------------


def test_without_a_threshold_it_is_a_gated_lora_bit_for_bit(contract: Any, tmp_path: Path) -> None:
    ours, run = contract.run("dynamic_rank", **SMALL, kappa_max=0)
    assert run.measures["removed_share"] == 0
    settings = DynamicRankSettings(
        rank=4, targets=("q_proj", "mlp.down_proj"), epochs=2, batch_size=4, learning_rate=0.01
    )  # type: ignore[call-arg]
    wrapped = wrap(contract.model, settings, seed=0)
    add_gates(wrapped.peft_model, gate_starts(wrapped, 1.0, seed=0))
    plain = train_and_write(
        contract.model, wrapped, contract.learn, settings, Run(tmp_path), method="dynamic_rank", data={}
    )
    for name, (a, b) in plain.factors().items():
        assert torch.equal(ours.factors()[name][0], a)
        assert torch.equal(ours.factors()[name][1], b)


def test_gates_are_thresholded_after_every_step_of_the_sparse_phase_alone(
    contract: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = DynamicRank.shrink_all

    def recorded(self: Any, wrapped: Any, threshold: float, optimiser: Any) -> None:
        before = {name: gate.detach().clone() for name, gate in gates_of(wrapped.peft_model).items()}
        real(self, wrapped, threshold, optimiser)
        asked.append(threshold)
        for name, gate in gates_of(wrapped.peft_model).items():
            expected = before[name].sign() * (before[name].abs() - threshold).clamp(min=0)
            torch.testing.assert_close(gate.detach(), expected)
            assert not optimiser.state[gate]["exp_avg"][gate == 0].any()

    monkeypatch.setattr(DynamicRank, "shrink_all", recorded)
    contract.run("dynamic_rank", **SMALL, steps=8, kappa_max=0.4, kappa_steps=2, dense_fraction=0.5)
    assert asked == pytest.approx([0, 0, 0, 0, 0.2, 0.2, 0.4, 0.4])


@pytest.mark.parametrize(
    ("values", "total"), [({}, SHRINKAGE), ({"total_shrinkage": 2.0}, 2.0), ({"kappa_max": 5e-3}, 0.6375)]
)
def test_thresholds_add_up_to_the_total_that_was_asked_for(values: dict[str, float], total: float) -> None:
    threshold = DynamicRankSettings(**values).thresholds(500)  # type: ignore[arg-type]
    assert sum(threshold(step) for step in range(1, 501)) == pytest.approx(total)


def test_a_removed_gate_loses_its_momentum_and_keeps_its_step_size() -> None:
    gate = torch.nn.Parameter(torch.tensor([0.05, 1.0, -2.0]))
    optimiser = torch.optim.AdamW([gate], lr=1e-4)
    (gate * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    optimiser.step()
    squares = optimiser.state[gate]["exp_avg_sq"].clone()
    shrink(gate, 0.1, optimiser)
    assert gate.tolist() == pytest.approx([0, 0.9, -1.9], abs=1e-3)
    assert (optimiser.state[gate]["exp_avg"] == 0).tolist() == [True, False, False]
    assert torch.equal(optimiser.state[gate]["exp_avg_sq"], squares)


def test_the_official_operator_leaves_nothing_below_the_threshold() -> None:
    gate = torch.nn.Parameter(torch.tensor([0.15, 0.25, -0.3]))
    shrink(gate, 0.1, torch.optim.AdamW([gate]), "official")
    assert gate.tolist() == pytest.approx([0, 0.15, -0.2])


def test_normalised_thresholding_is_that_of_the_renormalised_adapter(contract: Any) -> None:
    settings = DynamicRankSettings.from_mapping({**SMALL, "normalise": True, "kappa_max": 0.05})
    wrapped = wrap(contract.model, settings, seed=0)
    try:
        add_gates(wrapped.peft_model, gate_starts(wrapped, 1.0, seed=0))
        layers = lora_layers(wrapped.peft_model)
        expected = {}
        with torch.no_grad():
            for name, layer in layers.items():
                a, b = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER].weight
                b.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
                b[:, 0] = 0  # a rank that contributes nothing
                sizes = a.weight.norm(dim=1) * b.norm(dim=0)
                values = a.gate * sizes
                values = values.sign() * (values.abs() - 0.05).clamp(min=0)
                unit_a, unit_b = (torch.nn.functional.normalize(x, dim=d) for x, d in ((a.weight, 1), (b, 0)))
                expected[name] = unit_b @ torch.diag(values) @ unit_a
            gates = gates_of(wrapped.peft_model)
            DynamicRank(settings).shrink_all(wrapped, 0.05, torch.optim.AdamW(gates.values()))
        for name, (a, b) in wrapped.factors().items():
            torch.testing.assert_close(b @ a, expected[name])
            assert gates[name][0] == 0
        assert 0 < sum(int((gate == 0).sum()) for gate in gates.values()) < 4 * len(gates)
    finally:
        wrapped.unwrap()


# --- what is written --------------------------------------------------------------------------


def test_ranks_without_a_gate_are_not_written_and_the_rest_say_how_many_they_are(contract: Any) -> None:
    change, run = contract.run("dynamic_rank", rank=3, total_shrinkage=1.5)
    ranks = run.measures["active_ranks"]
    assert {0, 1} <= set(ranks.values()), "the case to be tested"
    written = {name: a.shape[0] for name, (a, _) in change.factors().items()}
    assert written == {name: rank for name, rank in ranks.items() if rank}
    config = json.loads((change.folder / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == sorted(written)
    stated = {name.strip("^$").replace("\\", ""): rank for name, rank in config["rank_pattern"].items()}
    assert stated == {name: rank for name, rank in written.items() if rank != config["r"]}
    assert run.measures["removed_share"] == pytest.approx(1 - sum(written.values()) / (3 * len(ranks)))
    assert change.record.measures["active_ranks"] == ranks
    assert change.record.measures["export_difference"] < 1e-5


def test_where_every_rank_is_removed_the_user_is_told_and_the_folder_is_the_base(contract: Any) -> None:
    change, messages = told(contract, **SMALL, total_shrinkage=100)
    assert set(change.record.measures["active_ranks"].values()) == {0}
    assert any("every rank was removed" in message for message in messages)
    changed = load_change(change.folder).apply(contract.model)
    found = check_logits(changed.model, contract.model.tokenizer)
    changed.undo()
    assert largest_difference(found, check_logits(contract.model.model, contract.model.tokenizer)) == 0


def test_a_short_run_is_told_that_the_start_decided(contract: Any) -> None:
    _, messages = told(contract, **HALF, learning_rate=1e-5)
    assert any("the largest gates from the start" in message for message in messages)
    _, messages = told(contract, **SMALL, total_shrinkage=0.1, learning_rate=0.2, gate_spread=0.01)
    assert messages == []


def test_surviving_ranks_keep_their_product() -> None:
    a, b = torch.randn(4, 6), torch.randn(5, 4)
    a[[0, 2]] = 0
    kept = surviving({"one": (a, b), "none": (torch.zeros(2, 6), torch.ones(5, 2))})
    assert list(kept) == ["one"]
    assert kept["one"][0].shape == (2, 6)
    torch.testing.assert_close(kept["one"][1] @ kept["one"][0], b @ a)


def test_what_the_start_decided_is_the_overlap_of_the_largest_gates() -> None:
    starts = {"one": torch.tensor([3.0, -2.0, 1.0]), "two": torch.tensor([0.5, 0.1])}
    gates = {"one": torch.tensor([1.0, 0.0, 0.2]), "two": torch.tensor([0.0, 0.0])}
    found = survival(starts, gates)
    assert found == {
        "active_ranks": {"one": 2, "two": 0},
        "removed_share": pytest.approx(0.6),
        "decided_by_start": 0.5,  # of 3 and -2, the two largest, one survived
    }


# --- interruption and streams -----------------------------------------------------------------


@pytest.mark.parametrize("step", [2, 5])
def test_a_stopped_run_continues_to_the_same_bytes(
    contract: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: int
) -> None:
    settings = {**HALF, "checkpoint_every": 0, "gate_spread": 0.1}
    whole, undisturbed = contract.run("dynamic_rank", **settings)
    real = adapter.train

    def stopped(*args: Any, after_step: Any, **options: Any) -> Any:
        def stop(module: Any, done: int, optimiser: Any) -> None:
            after_step(module, done, optimiser)
            if done == step:
                raise KeyboardInterrupt

        return real(*args, after_step=stop, **options)

    with monkeypatch.context() as patch:
        patch.setattr(adapter, "train", stopped)
        with pytest.raises(InterruptedRunError):
            contract.run("dynamic_rank", folder=tmp_path, **settings)
    continued, run = contract.run("dynamic_rank", folder=tmp_path, resume=True, **settings)
    assert run.measures["active_ranks"] == undisturbed.measures["active_ranks"]
    for name, (a, b) in whole.factors().items():
        assert torch.equal(continued.factors()[name][0], a)
        assert torch.equal(continued.factors()[name][1], b)


def test_a_stream_merges_each_task_before_the_next_begins(contract: Any, tmp_path: Path) -> None:
    settings = DynamicRankSettings.from_mapping({**QUICK, **HALF})
    tasks = {"first": contract.learn, "second": contract.keep}
    last = fit_stream(contract.model, tasks, settings, tmp_path)
    first = LanguageModel.load(tmp_path / "first" / "merged")
    change = load_change(tmp_path / "second" / "adapter")
    assert change.record.base_fingerprint == first.fingerprint != contract.model.fingerprint
    changed = change.apply(first)
    found = check_logits(changed.model, first.tokenizer)
    changed.undo()
    assert largest_difference(found, check_logits(last.model, last.tokenizer)) < 1e-4
    with pytest.raises(StorageError, match="exists already"):
        fit_stream(contract.model, tasks, settings, tmp_path)


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kappa_max": -1e-3}, "kappa_max"),
        ({"total_shrinkage": -1}, "total_shrinkage"),
        ({"kappa_max": 1e-3, "total_shrinkage": 1}, "both say how far"),
        ({"dense_fraction": 1}, "dense_fraction"),
        ({"dense_fraction": -0.1}, "dense_fraction"),
        ({"kappa_steps": 0}, "kappa_steps"),
        ({"prox": "hard"}, "prox"),
        ({"gate_spread": 0}, "gate_spread"),
        ({"normalise": True}, "far too large"),
        ({"normalise": True, "kappa_max": 0}, "no use of prox or normalise"),
        ({"prox": "official", "total_shrinkage": 0}, "no use of prox or normalise"),
        ({"stop_loss": 0.1}, "stop_loss"),
    ],
)
def test_settings_that_are_wrong_or_would_do_nothing_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        DynamicRankSettings.from_mapping(values)


def test_the_defaults_are_those_of_the_official_runner() -> None:
    settings = DynamicRankSettings()
    assert (settings.rank, settings.scaling, settings.learning_rate, settings.weight_decay) == (16, 1.0, 5e-4, 0.0)
    assert (settings.warmup, settings.schedule, settings.beta2) == (0.0, "cosine", 0.9999)
    assert (settings.dense_fraction, settings.kappa_steps, settings.prox) == (0.5, 50, "soft")
    assert settings.thresholds(500)(500) == pytest.approx(5e-3)
    assert DynamicRankSettings(kappa_max=0, stop_loss=0.1).removes is False
