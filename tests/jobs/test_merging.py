"""What a merge refuses before a byte is written, what it makes of unlike models, and what it leaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from merge_models import CONFIG, family, files, read, weights, write
from safetensors.numpy import save_file

import keeps.weights.files as weight_files
from keeps.errors import (
    InterruptedRunError,
    KeepsError,
    ModelLoadError,
    SettingsError,
    StorageError,
    UnknownNameError,
)
from keeps.jobs.merging import merge
from keeps.jobs.merging_folder import read_report

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def without(folder: Path, name: str) -> None:
    write(folder, {key: value for key, value in read(folder).items() if key != name})


def reshaped(folder: Path, name: str) -> None:
    write(folder, {**read(folder), name: np.zeros((3, 4), np.float32)})


def pickled(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def quantised(folder: Path, name: str) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": {"bits": 4}}))


def quantised_tensors(folder: Path, name: str) -> None:
    write(folder, {**read(folder), f"{name}.absmax": np.zeros(3, np.float32)})


def cut(folder: Path, name: str) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def index_to_elsewhere(folder: Path, name: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {name: "../x.safetensors"}}))


def index_of_nothing(folder: Path, name: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"ghost": "model.safetensors"}}))


def gone(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "kind", "said"),
    [
        (without, ModelLoadError, 'lacks "model.norm.weight"'),
        (reshaped, ModelLoadError, r"is \(3, 4\)"),
        (pickled, ModelLoadError, "pickled"),
        (quantised, ModelLoadError, "quantised"),
        (quantised_tensors, ModelLoadError, "absmax"),
        (cut, StorageError, "damaged"),
        (index_to_elsewhere, KeepsError, "outside of its folder"),
        (index_of_nothing, StorageError, '"ghost"'),
        (gone, ModelLoadError, "no safetensors"),
    ],
)
@pytest.mark.parametrize("which", ["b", "base"])
def test_a_model_that_does_not_fit_is_refused_before_a_byte_is_written(
    tmp_path: Path, damage: Callable[[Path, str], None], kind: type[KeepsError], said: str, which: str
) -> None:
    base, models = family(tmp_path, 2)
    damage(tmp_path / which, "model.norm.weight")
    names = {path.name for path in tmp_path.iterdir()}
    said = said if which == "b" else said.replace("lacks", "has").replace(r"is \(3, 4\)", r"\(3, 4\) in")
    with pytest.raises(kind, match=said):
        merge([str(m) for m in models], str(base), out=tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == names


@pytest.mark.parametrize("place", ["base", "a/inside", "."])
def test_an_output_that_overlaps_a_model_is_refused(tmp_path: Path, place: str) -> None:
    base, models = family(tmp_path / "all", 1)
    before = files(tmp_path)
    with pytest.raises(StorageError, match="overlaps"):
        merge([str(models[0])], str(base), out=tmp_path / "all" / place)
    assert files(tmp_path) == before


def test_an_output_that_exists_and_a_disk_without_room_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, models = family(tmp_path, 1)
    (tmp_path / "out").mkdir()
    with pytest.raises(StorageError, match="exists already"):
        merge([str(models[0])], str(base), out=tmp_path / "out")
    monkeypatch.setattr(weight_files.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(StorageError, match="MB are needed"):
        merge([str(models[0])], str(base), out=tmp_path / "other")
    assert not list(tmp_path.glob("other*"))


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"method": "tise"}, UnknownNameError, "ties"),
        ({"method": "ties", "settings": {"densty": 1}}, UnknownNameError, "density"),
        ({"method": "ties", "settings": {"density": 2}}, SettingsError, "density"),
        ({"base": None}, SettingsError, "needs a base"),
        ({"models": []}, SettingsError, "takes 1 or more"),
        ({"method": "model_stock"}, SettingsError, "takes 2 or more"),
        ({"rows": "all"}, SettingsError, "rows"),
        ({"dtype": "int8"}, SettingsError, "dtype"),
        ({"shard_size": 0}, SettingsError, "shard size"),
        ({"out": None}, SettingsError, "nowhere to go"),
        ({"resume": True, "restart": True}, SettingsError, "contradict"),
        ({"threads": -1}, SettingsError, "threads"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any], kind: type[KeepsError], said: str) -> None:
    base, models = family(tmp_path, 1)
    chosen = {"models": [str(m) for m in models], "base": str(base), "out": tmp_path / "out", **options}
    with pytest.raises(kind, match=said):
        merge(**chosen)
    assert not (tmp_path / "out").exists()


def test_a_method_that_runs_models_is_not_taken_for_one_that_merges_files(tmp_path: Path) -> None:
    from keeps.contracts import FineTuneMerge
    from keeps.jobs.merging_learned import takes_fine_tunes
    from keeps.registry import methods
    from keeps.weights.merge_method import MergeMethod

    others = {n: info for n, info in methods("merge").items() if not issubclass(info.implementation, MergeMethod)}
    loaded = {name for name, info in others.items() if takes_fine_tunes(info)}  # see test_merging_learned
    assert loaded == {"adamerging", "emr", "fisher", "regmean", "skillpack", "twin"}
    assert all(
        isinstance(info.implementation(info.settings()), FineTuneMerge) == (n in loaded) for n, info in others.items()
    )
    for name in others.keys() - loaded:
        with pytest.raises(SettingsError, match="does not merge files"):
            merge(["a", "b"], "base", method=name, out=tmp_path / "out")


def test_a_dry_run_says_the_bytes_and_writes_nothing(tmp_path: Path) -> None:
    base, models = family(tmp_path)
    before = files(tmp_path)
    planned = merge([str(m) for m in models], str(base), method="ties", out=tmp_path / "out", dry_run=True)
    assert files(tmp_path) == before
    done = merge([str(m) for m in models], str(base), method="ties", out=tmp_path / "out")
    size = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert planned.bytes_written == done.bytes_written == size
    assert planned.bytes_read == 4 * 4 * sum(value.nbytes for value in read(base).values())  # four models, four passes
    assert planned.memory_bound > 0
    assert planned.overall is None


def test_an_interrupted_merge_is_said_and_another_one_is_not_mixed_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, models = family(tmp_path)
    names = [str(m) for m in models]
    monkeypatch.setattr("keeps.weights.merge_engine.SYNC_BYTES", 1)
    with monkeypatch.context() as patch:
        patch.setattr("keeps.jobs.merging_folder.publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            merge(names, str(base), out=tmp_path / "out")
    with pytest.raises(InterruptedRunError, match="--resume"):
        merge(names, str(base), out=tmp_path / "out")
    with pytest.raises(InterruptedRunError, match="other models, settings"):
        merge(names, str(base), settings={"scale": 0.9}, out=tmp_path / "out", resume=True)
    merge(names, str(base), settings={"scale": 0.9}, out=tmp_path / "out", restart=True)
    assert read_report(tmp_path / "out")["settings"]["scale"] == 0.9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "base", "c", "out"]


def test_the_report_measures_what_numpy_measures(tmp_path: Path) -> None:
    base, models = family(tmp_path)
    merge([str(m) for m in models], str(base), method="ties", settings={"scope": "tensor"}, out=tmp_path / "out")
    report = read_report(tmp_path / "out")
    start, tuned, found = read(base), [read(m) for m in models], read(tmp_path / "out")
    for row in report["tensors"]:
        name = row["name"]
        deltas = np.stack([(model[name] - start[name]).reshape(-1) for model in tuned]).astype(np.float64)
        norms = np.linalg.norm(deltas, axis=1)
        np.testing.assert_allclose(row["delta_norms"], norms, rtol=1e-5)
        np.testing.assert_allclose(row["cosines"], deltas @ deltas.T / np.outer(norms, norms), atol=1e-5)
        assert row["conflicts"] == pytest.approx(((deltas > 0).any(0) & (deltas < 0).any(0)).mean(), abs=1e-6)
        thresholds = -np.sort(-np.abs(deltas), axis=1)[:, int(0.2 * deltas.shape[1]) - 1]
        assert row["kept"] == pytest.approx((np.abs(deltas) >= thresholds[:, None]).mean(1), abs=1e-5)
        change = np.linalg.norm((found[name] - start[name]).astype(np.float64))
        assert row["change_norm"] == pytest.approx(change, rel=1e-5)
    whole = np.concatenate([(tuned[0][name] - start[name]).reshape(-1) for name in start])
    assert report["overall"]["delta_norms"][0] == pytest.approx(np.linalg.norm(whole), rel=1e-4)


def test_the_result_is_a_sharded_folder_with_index_config_and_tokenizer(tmp_path: Path) -> None:
    base, models = family(tmp_path, 2)
    names = [str(m) for m in models]
    merge(names, str(base), out=tmp_path / "one")
    merge(names, str(base), out=tmp_path / "cut", shard_size=25_000)
    index = json.loads((tmp_path / "cut" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(read(base))
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in read(base).values())
    for name, value in read(tmp_path / "one").items():
        np.testing.assert_array_equal(read(tmp_path / "cut")[name], value)
    for folder in ("one", "cut"):
        assert json.loads((tmp_path / folder / "config.json").read_text()) == CONFIG
        assert (tmp_path / folder / "tokenizer_config.json").exists()
    again = merge([str(tmp_path / "cut")], str(base), out=tmp_path / "again")  # what was written is read
    assert again.outputs == len(read(base))


def test_longer_embeddings_are_refused_or_merged_in_the_rows_of_the_base(tmp_path: Path) -> None:
    base, (longer, shorter) = family(tmp_path, 2)
    extra = np.ones((7, 40), np.float32)
    write(longer, {**read(longer), EMBEDDING: np.concatenate([read(longer)[EMBEDDING], extra])})
    write(shorter, {**read(shorter), EMBEDDING: read(shorter)[EMBEDDING][:-5]})
    names = [str(longer), str(shorter)]
    with pytest.raises(ModelLoadError, match="--rows base"):
        merge(names, str(base), out=tmp_path / "out")
    merge(names, str(base), settings={"scale": 1.0}, rows="base", out=tmp_path / "out")
    start = read(base)[EMBEDDING]
    first, second = read(longer)[EMBEDDING][:130], np.concatenate([read(shorter)[EMBEDDING], start[-5:]])
    np.testing.assert_allclose(read(tmp_path / "out")[EMBEDDING], first + second - start, atol=1e-6)


def test_a_tied_head_is_read_from_its_embedding_where_another_model_has_one(tmp_path: Path) -> None:
    base, (tied, untied) = family(tmp_path, 2)
    write(untied, {**read(untied), HEAD: np.full((130, 40), 2, np.float32)}, {**CONFIG, "tie_word_embeddings": False})
    outcome = merge([str(tied), str(untied)], str(base), settings={"scale": 1.0}, out=tmp_path / "out")
    start = read(base)[EMBEDDING]
    wanted = start + (read(tied)[EMBEDDING] - start) + (2 - start)
    np.testing.assert_allclose(read(tmp_path / "out")[HEAD], wanted, atol=1e-6)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    assert any("tied" in note for note in outcome.notes)


def test_a_head_that_a_tied_model_stores_all_the_same_stays_tied(tmp_path: Path) -> None:
    base, (model,) = family(tmp_path, 1)
    write(model, {**read(model), HEAD: read(model)[EMBEDDING]})
    merge([str(model)], str(base), out=tmp_path / "out")
    assert HEAD not in read(tmp_path / "out")


def test_an_adapter_is_merged_as_the_model_that_it_makes(tmp_path: Path) -> None:
    base, _ = family(tmp_path, 0)
    name = "model.layers.0.mlp.up_proj"
    draw = np.random.default_rng(0)
    a, b = (draw.standard_normal(shape).astype(np.float32) for shape in ((2, 56), (90, 2)))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    factors = {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
    save_file(factors, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    for number, model in enumerate([str(adapter), f"{base}+{adapter}"]):
        merge([model], str(base), settings={"scale": 0.5}, out=tmp_path / f"out{number}")
        found = read(tmp_path / f"out{number}")[f"{name}.weight"]
        np.testing.assert_allclose(found, weights(0)[f"{name}.weight"] + 0.5 * 2 * b @ a, atol=1e-4)
    with pytest.raises(ModelLoadError, match="base model is not at hand"):
        merge([str(adapter), str(base)], method="average", out=tmp_path / "out2")


@pytest.mark.slow
def test_a_merged_adapter_run_is_the_model_that_peft_makes(tmp_path: Path, tiny_llama_folder: Path) -> None:
    """A real adapter of peft, put on its base by transformers and by us."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama_folder)
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"]))
    torch.manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.1)
    wrapped.save_pretrained(str(tmp_path / "adapter"))
    merge([str(tmp_path / "adapter")], str(tiny_llama_folder), settings={"scale": 1.0}, out=tmp_path / "out")
    fresh = AutoModelForCausalLM.from_pretrained(tiny_llama_folder)
    wanted = PeftModel.from_pretrained(fresh, tmp_path / "adapter").merge_and_unload().state_dict()
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0)
