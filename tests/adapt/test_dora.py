"""DoRA: the contract, the formula of a layer, a gradient that does not pass the norm, and exact forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import keeps.training.adapter as adapter
from keeps.errors import InterruptedRunError, SettingsError, StorageError, TargetError
from keeps.models.adapter_files import ADAPTER_FILE, read_magnitudes
from keeps.models.adapters import ADAPTER, lora_layers
from keeps.training.adapter import AdapterSettings, wrap
from keeps.weights import load_tensors, save_tensors

SMALL: dict[str, Any] = {"rank": 2, "targets": "q_proj,mlp.down_proj"}


@pytest.fixture
def wrapped(contract: Any) -> Any:
    """A DoRA model off its start, s = 2."""
    made = wrap(
        contract.model, AdapterSettings(rank=4, alpha=8.0, targets=("q_proj", "down_proj")), seed=0, use_dora=True
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in lora_layers(made.peft_model).values():
            for parameter in (layer.lora_B[ADAPTER].weight, layer.lora_magnitude_vector[ADAPTER].weight):
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    yield made
    made.unwrap()


def test_it_learns(contract: Any) -> None:
    contract.check_learns("dora", rank=8)


def test_it_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_seeds("dora", rank=2, targets="q_proj", dropout=0.1)


def test_its_folder_loads_in_plain_peft(contract: Any) -> None:
    contract.check_folder("dora", rank=2, alpha=8.0, rank_stabilised=True, rank_pattern={"q_proj": 5})


def test_refused_data_leaves_the_model_alone(contract: Any) -> None:
    contract.check_refused_data_leaves_the_model_alone("dora", rank=2)


def test_at_the_start_nothing_is_changed(contract: Any) -> None:
    ids = torch.arange(2, 30)[None]
    with torch.no_grad():
        before = contract.model.model(ids).logits
        made = wrap(contract.model, AdapterSettings(rank=4), seed=0, use_dora=True)
        after = made.peft_model(ids).logits
    made.unwrap()
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_a_layer_computes_the_formula_of_the_paper(wrapped: Any) -> None:
    for layer in lora_layers(wrapped.peft_model).values():
        x = torch.randn(5, layer.in_features)
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        moved = layer.base_layer.weight + 2.0 * b @ a
        scaled = layer.lora_magnitude_vector[ADAPTER].weight[:, None] * moved / moved.norm(dim=1, keepdim=True)
        torch.testing.assert_close(layer(x), x @ scaled.T, rtol=1e-4, atol=1e-5)


def test_the_norm_is_a_constant_in_the_backward_pass(wrapped: Any) -> None:
    for layer in lora_layers(wrapped.peft_model).values():
        x = torch.randn(5, layer.in_features)
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        m = layer.lora_magnitude_vector[ADAPTER].weight
        moved = layer.base_layer.weight + 2.0 * b @ a
        norm = moved.norm(dim=1, keepdim=True)

        def gradients(value: torch.Tensor, of: Any = (a, b, m)) -> tuple[torch.Tensor, ...]:
            return torch.autograd.grad(value.square().sum(), of, retain_graph=True)

        found = gradients(layer(x))
        constant = gradients(x @ (m[:, None] * moved / norm.detach()).T)
        through = gradients(x @ (m[:, None] * moved / norm).T)
        for mine, theirs in zip(found, constant, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(found[1], through[1], rtol=1e-2, atol=1e-2), "the test can tell the two apart"


def test_the_merged_form_is_exact_and_a_residual_form_is_refused(contract: Any, tmp_path: Path) -> None:
    change, run = contract.run("dora", **SMALL)
    assert run.measures["reduced_base"] is False
    assert json.loads((change.folder / "adapter_config.json").read_text())["use_dora"] is True
    assert change.export("merged", tmp_path / "merged", model=contract.model) < 1e-4
    assert change.export("lora", tmp_path / "lora", model=contract.model) == 0
    weights = load_tensors(tmp_path / "merged" / "model.safetensors")
    for name, magnitude in read_magnitudes(change.folder).items():
        torch.testing.assert_close(weights[f"{name}.weight"].norm(dim=1), magnitude, msg="its rows have the lengths m")
    with pytest.raises(SettingsError, match='"residual" would change nothing: dora'):
        change.export("residual", tmp_path / "residual", model=contract.model)


def test_magnitudes_are_trained_and_counted(contract: Any) -> None:
    change, run = contract.run("dora", **SMALL)
    layers = {name: contract.model.model.get_submodule(name) for name in change.factors()}
    for name, magnitude in read_magnitudes(change.folder).items():
        assert not torch.allclose(magnitude, layers[name].weight.detach().norm(dim=1), rtol=1e-4)
    plain, lora = contract.run("lora", **SMALL)
    assert read_magnitudes(plain.folder) == {}
    rows = sum(layer.out_features for layer in layers.values())
    assert run.measures["trained_parameters"] == lora.measures["trained_parameters"] + rows


def test_an_adapter_that_lost_a_magnitude_is_refused(contract: Any) -> None:
    change, _ = contract.run("dora", **SMALL, steps=1)
    tensors = load_tensors(change.folder / ADAPTER_FILE)
    tensors.pop(next(name for name in tensors if name.endswith("magnitude_vector")))
    save_tensors(change.folder / ADAPTER_FILE, tensors, {"format": "pt"})
    with pytest.raises(StorageError, match="have a magnitude and others have none"):
        change.export("merged", contract.folder / "out", model=contract.model)


def test_a_stopped_run_continues_to_the_same_bytes(
    contract: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = {**SMALL, "checkpoint_every": 0, "dropout": 0.1}
    whole, _ = contract.run("dora", **options)
    real = adapter.train

    def stopped(*args: Any, **hooks: Any) -> Any:
        def stop(_: Any, done: int, __: Any) -> None:
            if done == 2:
                raise KeyboardInterrupt

        return real(*args, **hooks, after_step=stop)

    with monkeypatch.context() as patch:
        patch.setattr(adapter, "train", stopped)
        with pytest.raises(InterruptedRunError):
            contract.run("dora", folder=tmp_path, **options)
    continued, _ = contract.run("dora", folder=tmp_path, resume=True, **options)
    first, second = (load_tensors(change.folder / ADAPTER_FILE) for change in (whole, continued))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("values", "error"), [({"rank": 0}, SettingsError), ({"rank": 33}, TargetError)])
def test_bad_settings_are_refused(contract: Any, values: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        contract.run("dora", **values)
