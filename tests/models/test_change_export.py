"""Every form of a change, loaded with plain libraries, gives the same logits; the rest is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keeps.errors import SettingsError, StorageError, UnknownNameError
from keeps.models import LanguageModel, changes
from keeps.models.adapter_files import CONFIG_FILE
from keeps.models.adapters import ADAPTER, lora_layers
from keeps.models.changes import AdapterChange, load_change, source_of
from keeps.models.checkpoint_files import save_checkpoint
from keeps.models.logits import largest_difference
from keeps.weights import load_tensors, save_tensors


@pytest.mark.parametrize("stabilised", [False, True])
@pytest.mark.parametrize("form", ["lora", "residual", "merged"])
def test_every_form_of_an_adapter_gives_the_same_logits_in_plain_libraries(
    tiny: LanguageModel, stored: Any, tmp_path: Path, form: str, stabilised: bool
) -> None:
    change = load_change(stored.adapter(tiny, tmp_path / "run", stabilised=stabilised))
    wanted = stored.logits(stored.with_peft(source_of(tiny), change.folder), tiny.tokenizer)
    out = tmp_path / "out"
    reported = change.export(form, out, model=tiny)
    if form == "merged":
        found = stored.with_transformers(out)
        assert not (out / CONFIG_FILE).exists()
    else:
        found = stored.with_peft(out / "base" if form == "residual" else source_of(tiny), out)
    measured = largest_difference(stored.logits(found, tiny.tokenizer), wanted)
    assert measured < 1e-4
    assert reported == pytest.approx(measured, rel=1e-3, abs=1e-7)
    assert isinstance(change, AdapterChange)
    ranks = {name: a.shape[0] for name, (a, _) in change.factors().items()}
    assert set(ranks.values()) == {4, 6}
    if form == "residual":
        config = json.loads((out / CONFIG_FILE).read_text())
        assert config["r"] == 2
        assert {layer.r[ADAPTER] for layer in lora_layers(found).values()} == {2, 3}


def test_the_lora_form_of_plain_lora_is_its_adapter(tiny: LanguageModel, stored: Any, tmp_path: Path) -> None:
    change = load_change(stored.adapter(tiny, tmp_path / "run", method="lora"))
    assert change.export("lora", tmp_path / "out", model=tiny) == 0
    copied = load_change(tmp_path / "out")
    assert copied.fingerprint == change.fingerprint
    assert change.export("merged", tmp_path / "merged", model=tiny) < 1e-4


def test_a_residual_export_knows_its_reduced_base_and_refuses_the_original(
    tiny: LanguageModel, stored: Any, tmp_path: Path
) -> None:
    change = load_change(stored.adapter(tiny, tmp_path / "run"))
    wanted = stored.logits(stored.with_peft(source_of(tiny), change.folder), tiny.tokenizer)
    change.export("residual", tmp_path / "out", model=tiny)
    residual = load_change(tmp_path / "out")
    with pytest.raises(StorageError, match=f"load the base that it names .{tmp_path / 'out' / 'base'}"):
        residual.apply(tiny)
    reduced = LanguageModel.load(residual.record.base_model)
    changed = residual.apply(reduced)
    assert largest_difference(stored.logits(changed.model, tiny.tokenizer), wanted) < 1e-4
    changed.undo()
    with pytest.raises(SettingsError, match="would change nothing"):
        residual.export("residual", tmp_path / "again", model=reduced)
    assert str(tmp_path / "out" / "base") in (tmp_path / "out" / "README.md").read_text()


def test_a_checkpoint_is_exported_merged_and_nothing_else(tiny: LanguageModel, stored: Any, tmp_path: Path) -> None:
    change = load_change(stored.checkpoint(tiny, tmp_path / "run"))
    (change.folder / "curves.json").write_text("[]")
    (change.folder / "checkpoint").mkdir()
    assert change.export("merged", tmp_path / "out", model=tiny) == 0
    wanted = stored.logits(stored.with_transformers(change.folder), tiny.tokenizer)
    assert largest_difference(stored.logits(stored.with_transformers(tmp_path / "out"), tiny.tokenizer), wanted) == 0
    left_out = {path.name for path in change.folder.iterdir()} - {path.name for path in (tmp_path / "out").iterdir()}
    assert left_out == {"curves.json", "checkpoint"}
    with pytest.raises(UnknownNameError, match='method full has no form "lora"'):
        change.export("lora", tmp_path / "other", model=tiny)


def test_what_an_export_costs_is_measured_on_the_exported_files(
    tiny: LanguageModel, stored: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = load_change(stored.adapter(tiny, tmp_path / "run"))

    def spoiled(module: Any, tokenizer: Any, folder: Path) -> None:
        save_checkpoint(module, tokenizer, folder)
        tensors = load_tensors(folder / "model.safetensors")
        tensors["model.norm.weight"] *= 1.5
        save_tensors(folder / "model.safetensors", tensors, {"format": "pt"})

    monkeypatch.setattr(changes, "save_checkpoint", spoiled)
    reported = change.export("merged", tmp_path / "out", model=tiny)
    wanted = stored.logits(stored.with_peft(source_of(tiny), change.folder), tiny.tokenizer)
    measured = largest_difference(stored.logits(stored.with_transformers(tmp_path / "out"), tiny.tokenizer), wanted)
    assert measured > 0.1
    assert reported == pytest.approx(measured, rel=1e-4)


def test_an_export_that_fails_restores_the_model_and_leaves_nothing(
    tiny: LanguageModel, stored: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = load_change(stored.adapter(tiny, tmp_path / "run"))

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tiny.model, "save_pretrained", full_disk)
    for form in ("merged", "residual"):
        with pytest.raises(StorageError, match="disk is full"):
            change.export(form, tmp_path / "out", model=tiny)
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]


def test_exports_that_would_do_nothing_or_cannot_be_done_are_refused(
    tiny: LanguageModel, stored: Any, tmp_path: Path
) -> None:
    plain = load_change(stored.adapter(tiny, tmp_path / "lora", method="lora"))
    corda = load_change(stored.adapter(tiny, tmp_path / "corda"))
    with pytest.raises(
        SettingsError, match=r'"residual" would change nothing: lora trains on the untouched base.*"merged"'
    ):
        plain.export("residual", tmp_path / "out", model=tiny)
    with pytest.raises(UnknownNameError, match=r'no form "residal".*did you mean "residual"'):
        corda.export("residal", tmp_path / "out", model=tiny)
    with pytest.raises(SettingsError, match="base model is needed"):
        corda.export("merged", tmp_path / "out")
    with pytest.raises(StorageError, match="exists already"):
        corda.export("merged", tmp_path / "lora", model=tiny)
    assert {path.name for path in tmp_path.iterdir()} == {"lora", "corda"}
