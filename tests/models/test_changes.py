"""Changes on disk: applied and undone, and refused where they would give a wrong model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.errors import KeepsError, StorageError
from keeps.models import LanguageModel
from keeps.models.adapter_files import CONFIG_FILE
from keeps.models.changes import AdapterChange, CheckpointChange, load_change, source_of
from keeps.models.logits import largest_difference
from keeps.weights import load_tensors, save_tensors

Edit = Callable[[dict[str, Any]], None]


# --- apply and undo ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["corda", "lora", "full"])
def test_applying_changes_the_answers_and_undoing_restores_the_weights_bit_by_bit(
    tiny: LanguageModel, stored: Any, tmp_path: Path, method: str
) -> None:
    make = stored.checkpoint if method == "full" else lambda m, f: stored.adapter(m, f, method=method)
    change = load_change(make(tiny, tmp_path / "run"))
    assert isinstance(change, CheckpointChange if method == "full" else AdapterChange)
    before = {name: tensor.clone() for name, tensor in tiny.model.state_dict().items()}
    base = stored.logits(tiny.model, tiny.tokenizer)
    changed = change.apply(tiny)
    assert largest_difference(stored.logits(changed.model, tiny.tokenizer), base) > 0.1
    assert changed.fingerprint == change.fingerprint != tiny.fingerprint
    assert len(changed.ask(["The capital of Norway is"], ["Oslo"])) == 1
    changed.undo()
    after = tiny.model.state_dict()
    assert after.keys() == before.keys()
    assert [name for name in before if not torch.equal(after[name], before[name])] == []
    changed.undo()  # a second time does nothing
    again = change.apply(tiny)
    changed.undo()  # not even to a later application
    assert largest_difference(stored.logits(again.model, tiny.tokenizer), base) > 0.1
    again.undo()


def test_an_applied_change_is_what_plain_peft_and_transformers_load(
    tiny: LanguageModel, stored: Any, tmp_path: Path
) -> None:
    for name, plain in (("corda", stored.with_peft), ("full", lambda _, folder: stored.with_transformers(folder))):
        make = stored.checkpoint if name == "full" else stored.adapter
        folder = make(tiny, tmp_path / name)
        expected = stored.logits(plain(source_of(tiny), folder), tiny.tokenizer)
        changed = load_change(folder).apply(tiny)
        assert largest_difference(stored.logits(changed.model, tiny.tokenizer), expected) < 1e-6
        changed.undo()


def test_the_identity_of_a_changed_model_follows_its_base_and_its_tensors(
    tiny: LanguageModel, stored: Any, tmp_path: Path
) -> None:
    first, second = (load_change(stored.adapter(tiny, tmp_path / name)) for name in "ab")
    assert first.fingerprint == second.fingerprint
    path = second.folder / "adapter_model.safetensors"
    tensors = load_tensors(path)
    next(iter(tensors.values()))[0, 0] += 1
    save_tensors(path, tensors, {"format": "pt"})
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize("kind", ["adapter", "checkpoint"])
def test_another_base_is_refused_with_the_base_to_load(
    tiny: LanguageModel, stored: Any, tmp_path: Path, kind: str
) -> None:
    change = load_change((stored.adapter if kind == "adapter" else stored.checkpoint)(tiny, tmp_path / "run"))
    weight: Any = tiny.model.get_parameter("model.norm.weight")
    with torch.no_grad():
        weight[0] += 1
    try:
        with pytest.raises(StorageError) as caught:
            change.apply(tiny)
        with pytest.raises(StorageError, match="made for a base"):
            change.export("merged", tmp_path / "out", model=tiny)
    finally:
        with torch.no_grad():
            weight[0] -= 1
    message = str(caught.value)
    assert "made for a base with fingerprint" in message
    assert str(tmp_path / "run") in message
    assert f"load the base that it names ({source_of(tiny)})" in message
    assert list(tmp_path.iterdir()) == [tmp_path / "run"], "a refused export leaves nothing behind"


def test_a_change_on_top_of_an_applied_change_is_refused(tiny: LanguageModel, stored: Any, tmp_path: Path) -> None:
    change = load_change(stored.adapter(tiny, tmp_path / "run"))
    changed = change.apply(tiny)
    with pytest.raises(StorageError, match="made for a base"):
        change.apply(changed)
    with pytest.raises(StorageError, match="made for a base"):
        change.apply(tiny)  # its module carries the first adapter
    changed.undo()


# --- damage -----------------------------------------------------------------------------------


def edited(name: str, edit: Edit) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        edit(values)
        (folder / name).write_text(json.dumps(values))

    return damage


def without_a_factor(folder: Path) -> None:
    tensors = load_tensors(folder / "adapter_model.safetensors")
    tensors.pop(next(iter(tensors)))
    save_tensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})


def of_another_size(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_tensors(path, {name: tensor[:, :-1] for name, tensor in load_tensors(path).items()}, {"format": "pt"})


RECORDS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no record": (lambda folder: (folder / "change.json").unlink(), "there is no change.json"),
    "cut off": (lambda folder: (folder / "change.json").write_text('{"kind": "ad'), "change.json cannot be read"),
    "a list": (lambda folder: (folder / "change.json").write_text("[]"), "has format None"),
    "of another version": (edited("change.json", lambda v: v.update(format=99)), "format 99, .*reads format 1"),
    "without a field": (edited("change.json", lambda v: v.pop("base_fingerprint")), "lacks base_fingerprint"),
    "of an unknown kind": (edited("change.json", lambda v: v.update(kind="adaptr")), 'did you mean "adapter"'),
    "of another method's kind": (edited("change.json", lambda v: v.update(kind="memory")), 'the kind "memory"'),
}
ADAPTERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no tensors": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "file is missing"),
    "tensors cut off": (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\0" * 40), "file is damaged"),
    "a factor missing": (without_a_factor, "lacks the tensor .*lora_A"),
    "of another size": (of_another_size, "does not fit the model's layer model.layers.0"),
    "no configuration": (lambda folder: (folder / CONFIG_FILE).unlink(), "there is no adapter_config.json"),
    "configuration cut off": (lambda folder: (folder / CONFIG_FILE).write_text("{"), "cannot be read"),
    "no rank": (edited(CONFIG_FILE, lambda v: v.update(r=None)), "not that of a LoRA adapter"),
}
CHECKPOINTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no tensors": (lambda folder: (folder / "model.safetensors").unlink(), "cannot be read"),
    "tensors cut off": (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 40), "cannot be read"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "of another size": (edited("config.json", lambda v: v.update(num_hidden_layers=3)), "does not fit a LlamaFor"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_a_damaged_record_is_refused(tiny: LanguageModel, stored: Any, tmp_path: Path, case: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    stored.record("adapter", "lora", tiny).write(folder)
    damage, words = RECORDS[case]
    damage(folder)
    with pytest.raises(StorageError, match=words):
        load_change(folder)


@pytest.mark.parametrize(
    ("kind", "case"), [*(("adapter", c) for c in ADAPTERS), *(("checkpoint", c) for c in CHECKPOINTS)]
)
def test_damaged_files_are_refused_and_leave_the_model_alone(
    tiny: LanguageModel, stored: Any, tmp_path: Path, kind: str, case: str
) -> None:
    folder = (stored.adapter if kind == "adapter" else stored.checkpoint)(tiny, tmp_path / "run")
    damage, words = (ADAPTERS if kind == "adapter" else CHECKPOINTS)[case]
    damage(folder)
    change = load_change(folder)
    with pytest.raises(KeepsError, match=words) as caught:
        change.apply(tiny)
    assert isinstance(caught.value, StorageError)
    assert str(folder) in str(caught.value)
