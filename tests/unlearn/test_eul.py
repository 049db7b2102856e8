"""EUL: it forgets with the base untouched, loads from its folder, and fuses what several runs made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from method_contract import tensors_of

import keeps.unlearn.eul as eul
from keeps.data.records import RecordSet
from keeps.errors import InterruptedRunError, SettingsError, StorageError, UnknownNameError
from keeps.models.bottleneck_files import FILE, GRAMS_FILE, read_layers
from keeps.models.bottlenecks import put_bottlenecks
from keeps.models.changes import load_change
from keeps.models.logits import check_logits, largest_difference
from keeps.numerics.divergences import kl_divergence
from keeps.numerics.forgetting_losses import teacher_student_forgetting
from keeps.numerics.regression_fusion import regression_fusion
from keeps.training.unlearn import forget_examples
from keeps.unlearn.eul import EULSettings
from keeps.weights.files import load_tensors, save_tensors

SMALL = {"rank": 4}


def test_it_forgets(contract: Any) -> None:
    contract.check_forgets("eul")


def test_bad_sets_are_refused(contract: Any) -> None:
    contract.check_refusals("eul")


def test_it_needs_a_retain_set(contract: Any) -> None:
    contract.retain = None
    with pytest.raises(SettingsError, match="nothing to retain"):
        contract.run("eul")


def test_it_continues_to_the_same_bytes(contract: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    contract.check_resumes("eul", monkeypatch, rank=4)


def test_an_interrupted_run_leaves_the_model_without_layers(contract: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise InterruptedRunError("stopped")

    monkeypatch.setattr(eul, "read_once", fail)
    with pytest.raises(InterruptedRunError):
        contract.run("eul", **SMALL)
    assert not any(
        isinstance(module, eul.nn.Module) and hasattr(module, "grams") for module in contract.model.model.modules()
    )


def test_layers_that_are_not_trained_yet_change_nothing(contract: Any) -> None:
    before = check_logits(contract.model.model, contract.model.tokenizer)
    wrapped = put_bottlenecks(contract.model.model, 4, torch.Generator().manual_seed(0))
    try:
        assert largest_difference(before, check_logits(contract.model.model, contract.model.tokenizer)) == 0.0
        trainable = [name for name, p in contract.model.model.named_parameters() if p.requires_grad]
        assert len(trainable) == 2 * len(wrapped.layers)
    finally:
        wrapped.unwrap()


def test_its_folder_loads_exports_and_depends_on_the_seed_alone(contract: Any) -> None:
    change, run = contract.run("eul", **SMALL)
    again, _ = contract.run("eul", **SMALL)
    one, other = tensors_of(change.folder), tensors_of(again.folder)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    loaded = load_change(change.folder)
    assert loaded.record == change.record
    assert loaded.fingerprint == again.fingerprint
    changed = loaded.apply(contract.model)
    moved = check_logits(changed.model, contract.model.tokenizer)
    changed.undo()
    changed.undo()
    assert largest_difference(moved, check_logits(contract.model.model, contract.model.tokenizer)) > 1e-4
    assert run.measures["export_difference"] == 0.0
    assert change.export("memory", contract.folder / "copy", model=contract.model) == 0.0
    with pytest.raises(SettingsError, match="relu"):
        change.check_form("merged")
    with pytest.raises(UnknownNameError, match="no form"):
        change.check_form("twin")


def test_fusing_is_the_regression_of_both_runs_layers(contract: Any) -> None:
    records = contract.forget.records
    contract.forget = RecordSet("one", records[:3])
    first, _ = contract.run("eul", **SMALL)
    contract.forget = RecordSet("two", records[3:])
    alone, _ = contract.run("eul", **SMALL)
    both, _ = contract.run("eul", **SMALL, fuse=(str(first.folder),))
    one, two, found = (read_layers(change.folder) for change in (first, alone, both))
    grams = [load_tensors(change.folder / GRAMS_FILE) for change in (first, alone)]
    for name, tensor in found.items():
        wanted = regression_fusion([two[name], one[name]], [grams[1][name], grams[0][name]])
        assert torch.allclose(tensor, wanted.float(), rtol=1e-5, atol=1e-6), name
    total = load_tensors(both.folder / GRAMS_FILE)
    for name, tensor in total.items():
        assert torch.allclose(tensor, grams[0][name] + grams[1][name], rtol=1e-5, atol=1e-4)


def test_fused_layers_forget_both_requests(contract: Any) -> None:
    records = contract.forget.records
    start = contract.losses()[0]
    contract.forget = RecordSet("one", records[:3])
    first, _ = contract.run("eul", epochs=8)
    contract.forget = RecordSet("two", records[3:])
    both, _ = contract.run("eul", epochs=8, fuse=(str(first.folder),))
    for part in (records[:3], records[3:]):
        contract.forget = RecordSet("part", part)
        assert contract.losses(both)[0] > start + 1


def test_gram_matrices_are_those_of_what_each_layer_reads(contract: Any) -> None:
    change, _ = contract.run("eul", **SMALL)
    changed = load_change(change.folder).apply(contract.model)
    layer: Any = next(module for module in changed.model.modules() if hasattr(module, "grams"))
    name = next(key for key in read_layers(change.folder) if key.endswith(".down"))
    rows: list[torch.Tensor] = []
    handle = layer.base_layer.register_forward_hook(lambda _m, _a, output: rows.append(output.detach()[0]))
    eul.read_once(contract.model, changed.model, forget_examples(contract.model, contract.forget))
    handle.remove()
    changed.undo()
    x = torch.cat(rows).double()
    found = load_tensors(change.folder / GRAMS_FILE)
    assert torch.allclose(found[name].double(), x.T @ x, rtol=1e-4, atol=1e-4)
    u = (x @ read_layers(change.folder)[name].double()).relu()
    assert torch.allclose(found[name.removesuffix("down") + "up"].double(), u.T @ u, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("made", "now", "seed", "message"),
    [
        ({"fusable": False}, {}, 0, "fusing needs"),
        ({}, {}, 1, "other numbers"),
        ({}, {"rank": 2}, 0, "other numbers"),
    ],
)
def test_layers_that_cannot_be_fused_are_refused_before_training(
    contract: Any, made: dict[str, Any], now: dict[str, Any], seed: int, message: str
) -> None:
    first, _ = contract.run("eul", **{**SMALL, **made})
    with pytest.raises(SettingsError, match=message):
        contract.run("eul", seed=seed, **{**SMALL, **now}, fuse=(str(first.folder),))


def test_a_folder_that_is_not_there_cannot_be_fused(contract: Any) -> None:
    with pytest.raises(StorageError):
        contract.run("eul", **SMALL, fuse=(str(contract.folder / "nowhere"),))


def test_damaged_files_are_refused_and_the_model_stays(contract: Any) -> None:
    change, _ = contract.run("eul", **SMALL)
    tensors = read_layers(change.folder)
    name = next(iter(tensors))
    cut = {key: value for key, value in tensors.items() if key != name}
    save_tensors(change.folder / FILE, cut, {"format": "1"})
    with pytest.raises(StorageError, match="lacks its tensor"):
        load_change(change.folder).apply(contract.model)
    save_tensors(change.folder / FILE, {**tensors, name: tensors[name][:, :2]}, {"format": "1"})
    with pytest.raises(StorageError, match="another model or rank"):
        load_change(change.folder).apply(contract.model)
    save_tensors(change.folder / FILE, tensors, {"format": "9"})
    with pytest.raises(StorageError, match="format 9"):
        load_change(change.folder).apply(contract.model)
    (change.folder / FILE).write_bytes(b"no tensors")
    with pytest.raises(StorageError):
        load_change(change.folder).apply(contract.model)


def test_the_loss_on_the_forget_set_is_that_of_the_card_and_is_bounded() -> None:
    generator = torch.Generator().manual_seed(1)
    z, old = (torch.randn(4, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    y = torch.tensor([0, 3, 6, 2])
    p, q = old.softmax(-1), z.softmax(-1)
    wanted = -0.7 * (p * (p / q).log()).sum(-1) + 0.3 * q.log()[torch.arange(4), y]
    found = teacher_student_forgetting(z, y, old, alpha=0.7, gamma=0.3)
    assert torch.allclose(found, wanted)
    far = (50 * old).requires_grad_()
    bounded = teacher_student_forgetting(far, y, -50 * old, max_loss=1e-9)
    bounded.sum().backward()
    assert float(kl_divergence(-50 * old, far.detach()).min()) > 1
    assert far.grad is not None
    assert float(far.grad.abs().max()) < 1e-9, "nothing pushes beyond the bound"


def test_without_correlation_fusing_is_a_mean_weighted_input_by_input(contract: Any) -> None:
    first, _ = contract.run("eul", **SMALL)
    alone, _ = contract.run("eul", **SMALL, ascent_weight=1.0)
    both, _ = contract.run("eul", **SMALL, ascent_weight=1.0, fuse=(str(first.folder),), fuse_correlation=0.0)
    name = next(iter(read_layers(both.folder)))
    one, two, found = (read_layers(change.folder)[name].double() for change in (first, alone, both))
    g1, g2 = (load_tensors(change.folder / GRAMS_FILE)[name].diagonal()[:, None] for change in (first, alone))
    assert torch.allclose(found, (g1 * one + g2 * two) / (g1 + g2), atol=1e-6)


@pytest.mark.parametrize(
    "values", [{"rank": 0}, {"fuse_correlation": 0.5}, {"stop_loss": 1.0}, {"forget_weight": 0, "ascent_weight": 0}]
)
def test_bad_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        EULSettings.from_mapping(values)
