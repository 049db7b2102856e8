"""KaSA: the contract, the truncated base, the gates, the penalties, and that it continues where it stopped."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import keeps.adapt.kasa as module
from keeps.adapt.kasa import KaSASettings, kasa_loss, wrap_kasa
from keeps.contracts import Run
from keeps.errors import InterruptedRunError, SettingsError, StorageError, TargetError
from keeps.models.adapter_files import ADAPTER_FILE
from keeps.models.adapters import ADAPTER, lora_layers
from keeps.models.gated import gates_of
from keeps.training import adapter
from keeps.training.adapter import START_FILE
from keeps.training.optimiser import make_optimiser
from keeps.weights import load_tensors

SMALL: dict[str, Any] = {"rank": 2, "targets": "q_proj,k_proj,mlp.down_proj"}
IDS = torch.arange(2, 30)[None]


@pytest.fixture
def wrapped(contract: Any, tmp_path: Path) -> Any:
    """A wrapped model of :data:`SMALL`, its parts random; unwrapped after the test."""
    settings = KaSASettings.from_mapping({**SMALL, "alpha": 6.0})
    made = wrap_kasa(contract.model, settings, Run(tmp_path))
    with torch.no_grad():
        for layer in lora_layers(made.peft_model).values():
            layer.lora_B[ADAPTER].weight.normal_(std=0.3)
    yield made
    made.unwrap()


@pytest.mark.parametrize(
    "settings", [{"alpha": 16.0}, {"truncation": "official", "penalty": "official", "gate_init": "ones"}]
)
def test_it_learns(contract: Any, settings: dict[str, Any]) -> None:
    contract.check_learns("kasa", rank=8, **settings)


def test_it_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_seeds("kasa", **SMALL, dropout=0.1)


@pytest.mark.parametrize(("truncation", "stabilised"), [("paper", True), ("official", False), ("none", False)])
def test_its_folder_loads_in_plain_peft(contract: Any, truncation: str, stabilised: bool) -> None:
    pattern = {"q_proj": 5}
    settings: dict[str, Any] = {"rank": 2, "alpha": 8.0, "rank_pattern": pattern, "rank_stabilised": stabilised}
    contract.check_folder("kasa", truncation=truncation, **settings)


def test_refused_data_leaves_the_model_alone(contract: Any) -> None:
    contract.check_refused_data_leaves_the_model_alone("kasa", **SMALL)


# --- the truncated base -----------------------------------------------------------------------


def test_the_base_loses_its_smallest_components_and_the_adapter_starts_at_zero(contract: Any, tmp_path: Path) -> None:
    originals = {name: value.detach().clone() for name, value in contract.model.model.named_parameters()}
    wrapped = wrap_kasa(contract.model, KaSASettings.from_mapping(SMALL), Run(tmp_path))
    shapes = set()
    for name, layer in lora_layers(wrapped.peft_model).items():
        u, s, vt = torch.linalg.svd(originals[f"{name}.weight"], full_matrices=False)
        expected = (u[:, :-2] * s[:-2]) @ vt[:-2]
        torch.testing.assert_close(layer.base_layer.weight, expected, atol=1e-5, rtol=1e-5)
        x = torch.randn(3, layer.in_features)
        assert torch.equal(layer(x), layer.base_layer(x)), "B is zero"
        shapes.add(tuple(layer.base_layer.weight.shape))
    assert shapes == {(32, 32), (16, 32), (32, 64)}, "square and wide"
    wrapped.unwrap()
    assert all(torch.equal(value, originals[name]) for name, value in contract.model.model.named_parameters())


def test_the_adapter_on_disk_is_the_gated_one_beside_minus_the_removed_part(contract: Any) -> None:
    change, run = contract.run("kasa", **SMALL, alpha=8.0)
    assert json.loads((change.folder / "adapter_config.json").read_text())["r"] == 4
    parameters = {name: value.detach() for name, value in contract.model.model.named_parameters()}
    removed = whole = 0.0
    for name, (a, b) in change.factors().items():
        assert a.shape[0] == b.shape[1] == 4
        weight = parameters[f"{name}.weight"]
        u, s, vt = torch.linalg.svd(weight, full_matrices=False)
        torch.testing.assert_close(4.0 * b[:, 2:] @ a[2:], -(u[:, -2:] * s[-2:]) @ vt[-2:], atol=1e-5, rtol=1e-5)
        assert bool(b[:, :2].any()), "the other half was trained"
        removed += float(s[-2:].square().sum())
        whole += float(weight.square().sum())
    assert run.measures["removed_norm_share"] == pytest.approx((removed / whole) ** 0.5, rel=1e-4)
    assert run.measures["reduced_base"] is True


def test_the_official_rule_leaves_wide_layers_whole(contract: Any) -> None:
    change, _ = contract.run("kasa", **SMALL, truncation="official", steps=1)
    for name, (a, _) in change.factors().items():
        assert a.shape[0] == 4
        assert bool(a[2:].any()) == name.endswith("q_proj")


def test_without_truncation_the_result_is_a_lora_of_its_own_rank(contract: Any) -> None:
    change, run = contract.run("kasa", **SMALL, truncation="none", steps=1)
    assert all(a.shape[0] == 2 for a, _ in change.factors().values())
    assert run.measures["reduced_base"] is False
    assert "removed_norm_share" not in run.measures


def test_the_residual_form_is_the_truncated_base_and_cannot_be_truncated_again(contract: Any, tmp_path: Path) -> None:
    from keeps.models.language_model import LanguageModel

    change, _ = contract.run("kasa", **SMALL, steps=2)
    assert change.export("residual", tmp_path / "residual", model=contract.model) < 1e-4
    truncated = LanguageModel.load(tmp_path / "residual" / "base")
    with pytest.raises(TargetError, match=r"no larger than its rounding \(model\.layers\.0"):
        wrap_kasa(truncated, KaSASettings.from_mapping(SMALL), Run(tmp_path))


# --- gates and penalties ----------------------------------------------------------------------


def test_a_layer_computes_the_formula_of_the_paper(wrapped: Any) -> None:
    for layer in lora_layers(wrapped.peft_model).values():
        x = torch.randn(5, layer.in_features)
        a, b, g = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight, layer.lora_A[ADAPTER].gate
        expected = x @ layer.base_layer.weight.T + 3.0 * (x @ a.T * g) @ b.T
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("form", ["paper", "official"])
@pytest.mark.parametrize("reduction", ["mean_layers", "sum"])
def test_the_penalty_is_that_of_every_layer_written_out(wrapped: Any, reduction: str, form: str) -> None:
    total = 0.0
    layers = lora_layers(wrapped.peft_model)
    for layer in layers.values():
        a, b = layer.lora_A[ADAPTER].weight.detach(), layer.lora_B[ADAPTER].weight.detach()
        pairs = [b.T @ b, a @ a.T] if form == "paper" else [b @ b.T, a.T @ a]
        distance = sum(float(torch.linalg.matrix_norm(m - torch.eye(len(m)))) for m in pairs)
        total += 0.3 * float(layer.lora_A[ADAPTER].gate.detach().square().sum()) + 0.2 * distance
    found = float(kasa_loss(wrapped.peft_model, beta=0.3, gamma=0.2, reduction=reduction, form=form).detach())
    assert found == pytest.approx(total / len(layers) if reduction == "mean_layers" else total, rel=1e-5)


def test_the_penalty_reaches_gates_and_both_factors(wrapped: Any) -> None:
    kasa_loss(wrapped.peft_model, beta=0.5, gamma=0.0, reduction="sum").backward()
    for gate in gates_of(wrapped.peft_model).values():
        torch.testing.assert_close(gate.grad, gate.detach())  # d(beta g^2) = 2 beta g
    kasa_loss(wrapped.peft_model).backward()
    trained = [value for value in wrapped.peft_model.parameters() if value.requires_grad]
    assert len(trained) == 3 * 6
    assert all(value.grad is not None and bool(value.grad.any()) for value in trained)


def test_gates_are_not_decayed(wrapped: Any) -> None:
    parameters = {name: value for name, value in wrapped.peft_model.named_parameters() if value.requires_grad}
    optimiser = make_optimiser(parameters, KaSASettings(weight_decay=0.1))
    decayed = {id(value) for group in optimiser.param_groups if group["weight_decay"] for value in group["params"]}
    gates = {id(gate) for gate in gates_of(wrapped.peft_model).values()}
    assert decayed == {id(value) for value in parameters.values()} - gates


def test_gates_start_at_one_or_at_a_standard_normal_draw_of_the_seed(contract: Any, tmp_path: Path) -> None:
    def gates(seed: int, **settings: Any) -> torch.Tensor:
        made = wrap_kasa(contract.model, KaSASettings(rank=8, **settings), Run(tmp_path, seed=seed))
        found = torch.cat([gate.detach() for gate in gates_of(made.peft_model).values()])
        made.unwrap()
        return found

    assert torch.equal(gates(0, gate_init="ones"), torch.ones(14 * 8))
    assert torch.equal(gates(0), gates(0))
    assert not torch.equal(gates(0), gates(1))
    assert abs(float(gates(0).mean())) < 0.3
    assert 0.8 < float(gates(0).std()) < 1.2


def test_training_with_the_penalty_ends_nearer_to_orthonormal(contract: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    distances: list[float] = []

    def watched(peft_model: Any, **options: Any) -> torch.Tensor:
        distances.append(float(kasa_loss(peft_model, beta=0.0, gamma=1.0).detach()))
        return kasa_loss(peft_model, **options)

    monkeypatch.setattr(module, "kasa_loss", watched)
    for gamma in (1e-6, 1.0):
        contract.run("kasa", **SMALL, epochs=5, learning_rate=0.05, reduction="sum", gamma=gamma)
    assert len(distances) == 2 * 5 * 3, "one a step"
    assert distances[-1] < 0.5 * distances[14], distances


@pytest.mark.parametrize("options", [{"form": "Paper"}, {"reduction": "mean"}])
def test_an_unknown_form_or_reduction_of_the_penalty_is_refused(wrapped: Any, options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(options))):
        kasa_loss(wrapped.peft_model, **options)


# --- interruption -----------------------------------------------------------------------------


def stopping(real: Any, step: int) -> Any:
    """``train``, stopped after ``step`` steps as if the user had pressed Control-C."""

    def stop(_: Any, done: int, __: Any) -> None:
        if done == step:
            raise KeyboardInterrupt

    return partial(real, after_step=stop)


@pytest.mark.parametrize("truncation", ["paper", "none"])
def test_a_stopped_run_continues_to_the_same_bytes_without_decomposing_again(
    contract: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, truncation: str
) -> None:
    settings = {**SMALL, "checkpoint_every": 0, "dropout": 0.1, "truncation": truncation}
    whole, undisturbed = contract.run("kasa", **settings)
    folder = tmp_path / "stopped"
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(adapter, "train", stopping(adapter.train, 3))
        with pytest.raises(InterruptedRunError):
            contract.run("kasa", folder=folder, **settings)
    assert (folder / START_FILE).exists() == (truncation == "paper")

    def again(*_: Any) -> None:
        raise AssertionError("the weights are decomposed a second time")

    monkeypatch.setattr(module, "removed_parts", again)
    _, run = contract.run("kasa", folder=folder, resume=True, **settings)
    ends, expected = load_tensors(folder / ADAPTER_FILE), load_tensors(whole.folder / ADAPTER_FILE)
    assert all(torch.equal(ends[name], value) for name, value in expected.items())
    for name in ("removed_norm_share", "steps"):
        assert run.measures.get(name) == undisturbed.measures.get(name)
    assert not (folder / START_FILE).exists()


def test_what_is_stored_for_a_resumed_run_is_the_removed_part(
    contract: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(adapter, "train", stopping(adapter.train, 1))
        with pytest.raises(InterruptedRunError):
            contract.run("kasa", folder=tmp_path, **SMALL, alpha=6.0)
    stored = load_tensors(tmp_path / START_FILE)
    for name in {key.rsplit(".", 1)[0] for key in stored}:
        u, s, vt = torch.linalg.svd(contract.model.model.get_submodule(name).weight.detach(), full_matrices=False)
        product = 3.0 * stored[f"{name}.b"] @ stored[f"{name}.a"]
        torch.testing.assert_close(product.float(), (u[:, -2:] * s[-2:]) @ vt[-2:], atol=1e-5, rtol=1e-5)
    with pytest.raises(StorageError, match="started from other layers or ranks"):
        contract.run("kasa", folder=tmp_path, resume=True, **{**SMALL, "rank": 3})


def test_an_error_after_the_base_was_reduced_restores_it(contract: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise TargetError("the gates do not fit")

    monkeypatch.setattr(module, "add_gates", full)
    with pytest.raises(TargetError, match="the gates do not fit"):
        contract.run("kasa", **SMALL)  # the fixture finds any bit that is not as before


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"gate_init": "zeros"},
        {"beta": -1e-4},
        {"gamma": -1.0},
        {"reduction": "mean"},
        {"penalty": "both"},
        {"truncation": "largest"},
        {"penalty": "official", "gamma": 0.0},
        {"reduction": "sum", "beta": 0.0, "gamma": 0.0},
    ],
)
def test_settings_out_of_range_or_without_effect_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))):
        KaSASettings.from_mapping(values)


@pytest.mark.parametrize("values", [{"rank": 16}, {"rank": 2, "rank_pattern": {"k_proj": 16}}])
def test_a_rank_that_leaves_nothing_of_a_layer_is_refused(contract: Any, values: dict[str, Any]) -> None:
    with pytest.raises(TargetError, match=r"16 would remove every component of a layer of 16 x 32 .*k_proj"):
        contract.run("kasa", targets="q_proj,k_proj", **values)
    contract.run("kasa", targets="k_proj", steps=1, rank=16, truncation="none")


def test_the_official_rule_on_wide_layers_alone_is_refused(contract: Any) -> None:
    with pytest.raises(SettingsError, match='"official" removes nothing from these layers'):
        contract.run("kasa", rank=2, targets="k_proj,down_proj", truncation="official")


def test_a_wrapped_model_is_not_wrapped_again(wrapped: Any, contract: Any, tmp_path: Path) -> None:
    del wrapped
    with pytest.raises(TargetError, match="carries an adapter"):
        wrap_kasa(contract.model, KaSASettings.from_mapping(SMALL), Run(tmp_path))
