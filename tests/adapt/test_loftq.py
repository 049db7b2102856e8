"""LoftQ: the contract, what is frozen, written and measured, and that it continues where it stopped."""

from __future__ import annotations

import json
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_starts import weights_of

import keeps.adapt.loftq as module
from keeps.adapt.loftq import QUANTISED, LoftQSettings, quantised_starts, wrap_quantised
from keeps.contracts import Run
from keeps.errors import InterruptedRunError, SettingsError, StatisticsError, StorageError, TargetError
from keeps.models.adapters import ADAPTER, lora_layers
from keeps.models.changes import CheckpointChange
from keeps.models.language_model import LanguageModel
from keeps.models.logits import CHECK_TEXTS, check_logits, largest_difference
from keeps.registry import find_method
from keeps.training.adapter import START_FILE
from keeps.weights import load_tensors

SMALL: dict[str, Any] = {"rank": 2, "targets": "q_proj,mlp.down_proj"}


def test_it_learns(contract: Any) -> None:
    contract.check_learns("loftq", rank=8)


def test_it_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_seeds("loftq", rank=2, targets="q_proj", dropout=0.1)


@pytest.mark.parametrize("code", ["nf", "uniform"])
def test_its_folder_loads_in_plain_transformers(contract: Any, code: str) -> None:
    pattern = {"q_proj": 5}
    contract.check_folder("loftq", rank=2, alpha=8.0, rank_stabilised=True, rank_pattern=pattern, code=code, bits=3)


def test_refused_data_leaves_the_model_alone(contract: Any) -> None:
    contract.check_refused_data_leaves_the_model_alone("loftq", rank=2)


# --- the quantised base and the start ---------------------------------------------------------


@pytest.mark.parametrize("alpha", [4.0, 12.0])
def test_step_zero_is_the_quantised_base_beside_the_correction(contract: Any, tmp_path: Path, alpha: float) -> None:
    originals = {name: value.detach().clone() for name, value in contract.model.model.named_parameters()}
    targets = weights_of(contract)
    settings, run = LoftQSettings(rank=4, alpha=alpha, bits=3, alternations=2), Run(tmp_path)
    starts = quantised_starts(contract.model, settings, run)
    wrapped = wrap_quantised(contract.model, settings, starts, run)
    try:
        layers = lora_layers(wrapped.peft_model)
        assert layers.keys() == targets.keys()
        for name, layer in layers.items():
            w, q = originals[f"{name}.weight"], layer.base_layer.weight
            torch.testing.assert_close(settings.quantiser.rounded(q), q, rtol=0, atol=0)
            assert all(len(block.unique()) <= 8 for block in q.detach().reshape(-1, 64)), "3 bits a weight"
            product = alpha / 4 * layer.lora_B[ADAPTER].weight.double() @ layer.lora_A[ADAPTER].weight.double()
            error = float((w.double() - q.double() - product).detach().norm() / w.double().norm())
            assert error == pytest.approx(starts[name].error, rel=1e-4)
            x = torch.randn(3, layer.in_features)
            torch.testing.assert_close(layer(x), x @ (q + product.float()).T, rtol=1e-4, atol=1e-4)
            assert [name for name, value in layer.named_parameters() if value.requires_grad] == [
                f"lora_{part}.{ADAPTER}.weight" for part in "AB"
            ]
    finally:
        wrapped.unwrap()
        for name, value in contract.model.model.named_parameters():
            with torch.no_grad():
                value.copy_(originals[name])
            value.requires_grad_(True)


def test_what_is_measured_is_the_mean_error_of_the_layers_and_the_bytes_of_a_store(contract: Any) -> None:
    change, run = contract.run("loftq", **SMALL, bits=2, alternations=1, steps=1)
    plain, corrected, numbers = [], [], 0
    for weight in weights_of(contract, SMALL["targets"]).values():
        left = weight - LoftQSettings(bits=2).quantiser.rounded(weight.float()).double()
        plain.append(float(left.norm() / weight.norm()))
        corrected.append(float(torch.linalg.svdvals(left)[2:].norm() / weight.norm()))
        numbers += weight.numel()
    measures = change.record.measures
    assert measures["quantisation_error_plain"] == pytest.approx(sum(plain) / len(plain), rel=1e-4)
    assert measures["quantisation_error"] == pytest.approx(sum(corrected) / len(corrected), rel=1e-4)
    assert measures["quantisation_error"] < measures["quantisation_error_plain"]
    assert measures["quantised_bytes"] == numbers * 2 // 8 + numbers // 64 * 4
    assert measures["unquantised_bytes"] == numbers * 4
    assert measures["quantisation_bits"] == 2
    assert 0 <= measures["export_difference"] < 1e-4
    rank, sides = 2, sum(sum(weight.shape) for weight in weights_of(contract, SMALL["targets"]).values())
    assert run.measures["trained_parameters"] == rank * sides


def test_fewer_bits_start_further_from_the_base(contract: Any, tmp_path: Path) -> None:
    errors = []
    for bits in (8, 4, 3, 2):
        run = Run(tmp_path)
        quantised_starts(contract.model, LoftQSettings(rank=4, bits=bits), run)
        errors.append((run.measures["quantisation_error"], run.measures["quantisation_error_plain"]))
    assert errors == sorted(errors)
    assert all(corrected < plain for corrected, plain in errors)


# --- what is written --------------------------------------------------------------------------


def test_layers_that_are_no_targets_keep_every_bit(contract: Any) -> None:
    change, _ = contract.run("loftq", **SMALL, bits=2)
    assert isinstance(change, CheckpointChange)
    originals = {name: value.detach().clone() for name, value in contract.model.model.named_parameters()}
    changed = change.apply(contract.model)
    moved = {name for name, value in changed.model.named_parameters() if not torch.equal(value, originals[name])}
    changed.undo()
    assert moved == {f"{name}.weight" for name in weights_of(contract, SMALL["targets"])}


@pytest.mark.parametrize(("stabilised", "code"), [(False, "nf"), (True, "uniform_absmax")])
def test_the_quantised_folder_is_an_adapter_and_its_base_for_plain_peft(
    contract: Any, monkeypatch: pytest.MonkeyPatch, stabilised: bool, code: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    settings = {"rank_stabilised": stabilised, "rank_pattern": {"q_proj": 3}, "code": code, "bits": 3}
    change, _ = contract.run("loftq", **SMALL, **settings, alpha=6.0, write_quantised=True)
    monkeypatch.chdir(change.folder / QUANTISED)
    call = 'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), ".")'
    assert call in Path("README.md").read_text()
    base = AutoModelForCausalLM.from_pretrained("base")
    quantiser = LoftQSettings(bits=3, code=code).quantiser
    for name in weights_of(contract, SMALL["targets"]):
        weight = base.get_parameter(f"{name}.weight").detach()
        assert torch.equal(quantiser.rounded(weight), weight), "quantising once more changes nothing"
    plain = PeftModel.from_pretrained(base, ".").eval()
    assert {layer.r[ADAPTER] for layer in lora_layers(plain).values()} == {2, 3}
    with torch.no_grad():
        theirs = [plain(torch.tensor([contract.model.tokenizer(text)["input_ids"]])).logits[0] for text in CHECK_TEXTS]
    changed = change.apply(contract.model)
    ours = check_logits(changed.model, contract.model.tokenizer)
    changed.undo()
    assert largest_difference(ours, theirs) < 1e-4
    assert json.loads(Path("adapter_config.json").read_text())["base_model_name_or_path"] == "base"


def test_without_asking_no_quantised_folder_is_written(contract: Any) -> None:
    change, _ = contract.run("loftq", **SMALL, steps=1)
    assert not (change.folder / QUANTISED).exists()


def test_a_quantised_base_is_not_quantised_again(contract: Any) -> None:
    change, _ = contract.run("loftq", **SMALL, steps=1, write_quantised=True)
    again = LanguageModel.load(change.folder / QUANTISED / "base")
    with pytest.raises(StatisticsError, match=r"quantising changes nothing .*\(model\.layers\.0\.self_attn\.q_proj"):
        type(contract)(again, change.folder).run("loftq", **SMALL)


# --- interruption -----------------------------------------------------------------------------


def stopped(contract: Any, monkeypatch: pytest.MonkeyPatch, folder: Path, step: int, **options: Any) -> None:
    """Run into ``folder`` and stop after ``step`` steps as if the user had pressed Control-C."""

    def stop(_: Any, done: int, __: Any) -> None:
        if done == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "train", partial(module.train, after_step=stop))
        with pytest.raises(InterruptedRunError):
            contract.run("loftq", folder=folder, **options)
    assert load_tensors(folder / START_FILE)


def test_a_stopped_run_continues_to_the_same_bytes_without_quantising_again(
    contract: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = {**SMALL, "checkpoint_every": 0, "dropout": 0.1, "write_quantised": True, "code": "uniform"}
    whole, undisturbed = contract.run("loftq", **options)
    folder = tmp_path / "stopped"
    folder.mkdir()
    stopped(contract, monkeypatch, folder, 3, **options)

    def again(*_: Any) -> None:
        raise AssertionError("the weights are quantised a second time")

    monkeypatch.setattr(module, "quantised_starts", again)
    _, run = contract.run("loftq", folder=folder, resume=True, **options)
    for file in ("model.safetensors", f"{QUANTISED}/adapter_model.safetensors", f"{QUANTISED}/base/model.safetensors"):
        assert (folder / file).read_bytes() == (whole.folder / file).read_bytes(), file
    timed = ("seconds", "per_second", "memory")
    same = {key: value for key, value in undisturbed.measures.items() if not any(word in key for word in timed)}
    assert {key: run.measures[key] for key in same} == same
    assert not (folder / START_FILE).exists()


@pytest.mark.parametrize(
    "other", [{"rank": 1}, {"targets": "q_proj"}, {"bits": 3}, {"code": "uniform"}, {"block": 32}, {"alpha": 9.0}]
)
def test_the_starts_of_another_job_are_refused(
    contract: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, other: dict[str, Any]
) -> None:
    stopped(contract, monkeypatch, tmp_path, 1, **SMALL)
    with pytest.raises(StorageError, match="other layers or ranks, or was quantised in another way"):
        contract.run("loftq", folder=tmp_path, resume=True, **{**SMALL, **other})


def test_the_starts_of_another_method_are_refused(contract: Any, tmp_path: Path) -> None:
    from keeps.weights.files import save_tensors

    save_tensors(tmp_path / START_FILE, {"model.layers.0.self_attn.q_proj.a": torch.ones(2, 2)}, {"measures": "{}"})
    with pytest.raises(StorageError, match="quantised in another way"):
        contract.run("loftq", folder=tmp_path, resume=True, **SMALL)


def test_a_full_disk_gives_the_weights_back(contract: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(contract.model.model, "save_pretrained", full)
    for more in ({}, {"write_quantised": True}):
        with pytest.raises(StorageError, match="disk is full"):
            contract.run("loftq", **SMALL, **more)


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"bits": 5}, "bits is 5 .*2, 3, 4, 8"),
        ({"bits": 1}, "bits is 1"),
        ({"bits": 16}, "bits is 16"),
        ({"code": "nf4"}, "code"),
        ({"alternations": 0}, "alternations is 0"),
        ({"block": 1}, "block is 1"),
        ({"tail": "nf3"}, "tail"),
        ({"tail": "nf4"}, 'tail "nf4" changes nothing with code "nf" and 4 bits'),
        ({"tail": "nf4", "bits": 2, "code": "uniform"}, 'changes nothing with code "uniform"'),
        ({"rank": 0}, "rank is 0"),
    ],
)
def test_settings_out_of_range_or_without_effect_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        LoftQSettings.from_mapping(values)


def test_the_tail_of_nf4_has_an_effect_on_other_bits() -> None:
    own, nf4 = (LoftQSettings(bits=2, tail=tail).quantiser.levels() for tail in ("own", "nf4"))
    assert not torch.equal(own, nf4)


@pytest.mark.parametrize("values", [{"rank": 33}, {"targets": ("qproj",)}, {"rank": 2, "rank_pattern": {"k_proj": 17}}])
def test_layers_and_ranks_that_are_not_there_are_refused(contract: Any, values: dict[str, Any]) -> None:
    with pytest.raises(TargetError):
        contract.run("loftq", **values)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_refused_by_name(contract: Any, tiny_llama: LanguageModel, value: float) -> None:
    with torch.no_grad():
        tiny_llama.model.get_parameter("model.layers.1.mlp.up_proj.weight")[3, 4] = value
    with pytest.raises(StatisticsError, match=r"NaN, infinity.*\(model\.layers\.1\.mlp\.up_proj\)"):
        type(contract)(tiny_llama, contract.folder).run("loftq", rank=2)


def test_a_packed_weight_is_refused_by_name(contract: Any, tiny_llama: LanguageModel) -> None:
    layer: Any = tiny_llama.model.get_submodule("model.layers.0.mlp.down_proj")
    layer.weight = torch.nn.Parameter(layer.weight.detach().to(torch.int8), requires_grad=False)
    with pytest.raises(TargetError, match=r"quantised or not loaded \(int8\).*down_proj"):
        type(contract)(tiny_llama, contract.folder).run("loftq", rank=2)


def test_no_other_form_than_merged_is_offered(contract: Any) -> None:
    info = find_method("loftq", "adapt")
    info.check_form("merged", LoftQSettings())
    with pytest.raises(SettingsError, match=r'the result of loftq .*"lora" .*use form "merged"'):
        info.check_form("lora", LoftQSettings())
    change, _ = contract.run("loftq", **SMALL, steps=1, write_quantised=True)
    assert change.export("merged", contract.folder / "merged", model=contract.model) == 0
    assert not (contract.folder / "merged" / QUANTISED).exists()
