"""MEND: gradients in parts, an editor that begins as the identity and learns, and edits that can be withdrawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.edit.mend import FILE, MEND, MENDSettings
from keeps.errors import RecordError, StorageError
from keeps.models import LanguageModel
from keeps.models.adapter_files import read_factors
from keeps.models.changes import load_change
from keeps.models.edit_files import read_entries, withdraw
from keeps.models.locate import mlp_outputs
from keeps.training.edit_losses import edit_batch, frozen, target_loss
from keeps.training.gradient_editor import GradientEditor, Pairs, SharedEditor, gradient_pairs
from keeps.training.gradient_editor_training import EditorPlan, train_editor

NewRun = Callable[..., Run]
QUICK: dict[str, Any] = {"editor_steps": 6, "editor_rank": 8}


@pytest.fixture(scope="module")
def model(tiny_llama_folder: Path) -> LanguageModel:
    return LanguageModel.load(tiny_llama_folder)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KEEPS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_pairs_make_up_the_gradient_of_every_weight(model: LanguageModel) -> None:
    refs = mlp_outputs(model.model)
    batch = edit_batch(model, ["Oslo is the capital of", "Lima"], ["the Kingdom of Sweden", "is in Chile"])
    with frozen(model):
        pairs = gradient_pairs(model, refs, batch)
    weights = [ref.weight for ref in refs]
    wanted = torch.autograd.grad(target_loss(model, batch), weights)
    for ref, gradient in zip(refs, wanted, strict=True):
        torch.testing.assert_close(pairs[ref.name].gradient, gradient, atol=1e-6, rtol=1e-4)
        assert pairs[ref.name].inputs.shape[0] < batch.ids.numel(), "padding has no part in it"
    assert all(parameter.grad is None for parameter in model.model.parameters())


def test_an_editor_begins_as_the_identity_and_its_update_as_a_step_down_the_gradient() -> None:
    torch.manual_seed(0)
    editor = SharedEditor(5, 3, rank=4, layers=2, alpha=0.25)
    pairs = Pairs(torch.randn(7, 5), torch.randn(7, 3))
    out = editor(pairs, 1)
    assert torch.equal(out.inputs, pairs.inputs)
    assert torch.equal(out.gradients, pairs.gradients)
    editor.fit_statistics(1, [pairs])
    z = torch.cat([pairs.inputs, pairs.gradients], dim=1)
    found = editor(pairs, 1)
    wanted = (z - z.mean(0)) / z.std(0)
    torch.testing.assert_close(torch.cat([found.inputs, found.gradients], dim=1), wanted)
    untouched = editor(pairs, 0)
    assert torch.equal(untouched.inputs, pairs.inputs)


def test_it_begins_to_learn_where_the_ordinary_relu_would_never() -> None:
    torch.manual_seed(0)
    editor = SharedEditor(5, 3, rank=4, layers=1, alpha=0.1)
    out = editor(Pairs(torch.randn(7, 5), torch.randn(7, 3)), 0)
    (out.inputs.sum() + out.gradients.square().sum()).backward()
    assert editor.up[0].grad is not None
    assert editor.up[0].grad.abs().sum() > 0
    assert editor.bias[1].grad is not None
    assert editor.bias[1].grad.abs().sum() > 0
    z = torch.zeros(4, requires_grad=True)
    z.relu().sum().backward()
    assert z.grad is not None
    assert z.grad.abs().sum() == 0, "this is why it is no relu"


def test_layers_of_one_shape_share_an_editor_and_keep_a_step_size_each(model: LanguageModel) -> None:
    refs = mlp_outputs(model.model)
    editor = GradientEditor(refs, rank=8, alpha=0.5)
    assert len(editor.shared) == 1
    batch = edit_batch(model, ["Oslo is the capital of"], ["Sweden"])
    with frozen(model):
        pairs = gradient_pairs(model, refs, batch)
    with torch.no_grad():
        next(iter(editor.shared.values())).alpha[1] = 2.0  # type: ignore[index, union-attr]
    for number, ref in enumerate(refs):
        a, b = editor.factors(ref.name, pairs[ref.name])
        torch.testing.assert_close(b @ a, -(0.5, 2.0)[number] * pairs[ref.name].gradient)


def test_training_lowers_its_loss(model: LanguageModel, edits: tuple[Edit, ...], new_run: NewRun) -> None:
    plan = EditorPlan(16, 60, 3e-3, 1e-3, 1e-3, 1.0, 0.1)
    refs = mlp_outputs(model.model)
    editor = GradientEditor(refs, plan.rank, plan.alpha)
    before = model.fingerprint
    with frozen(model):
        losses = train_editor(model, refs, editor, edits, plan, new_run())
    assert model.fingerprint == before
    assert sum(losses[-9:]) < 0.8 * sum(losses[:9])


@pytest.mark.parametrize("order", ["batch", "sequential"])
def test_what_lies_on_disk_is_the_whole_change_and_edits_can_be_withdrawn(
    model: LanguageModel, edits: tuple[Edit, ...], new_run: NewRun, tmp_path: Path, order: str
) -> None:
    before = model.fingerprint
    change = MEND(MENDSettings(order=order, alpha=0.02, **QUICK))(model, edits, run=new_run())
    assert model.fingerprint == before
    entries = read_entries(change.folder)
    changed = load_change(change.folder).apply(model)
    scores = changed.logprob([edit.prompt for edit in edits], [edit.target_new for edit in edits])
    for entry, score in zip(entries, scores, strict=True):
        assert entry.measured["probability"] == pytest.approx(
            float(torch.tensor(score.logprob / score.tokens).exp()), rel=1e-3
        )
    changed.undo()
    assert model.fingerprint == before
    less = withdraw(change.folder, [edits[1].id], tmp_path / "less", model)
    factors, left = read_factors(change.folder), read_factors(less.folder)
    for name, (a, b) in factors.items():
        start, end = entries[1].share[name]
        torch.testing.assert_close(left[name][1] @ left[name][0], b @ a - b[:, start:end] @ a[start:end])


def test_the_editor_is_trained_once_and_used_again(
    model: LanguageModel, edits: tuple[Edit, ...], new_run: NewRun, own_cache: Path
) -> None:
    one = MEND(MENDSettings(**QUICK))(model, edits, run=new_run("one"))
    again = MEND(MENDSettings(**QUICK))(model, edits, run=new_run("again"))
    assert (one.record.measures["editor_trained"], again.record.measures["editor_trained"]) == (True, False)
    assert len(list((own_cache / "mend").glob("*.safetensors"))) == 1
    assert (one.folder / FILE).read_bytes() == (again.folder / FILE).read_bytes()
    for name, (a, b) in read_factors(one.folder).items():
        assert torch.equal(a, read_factors(again.folder)[name][0])
        assert torch.equal(b, read_factors(again.folder)[name][1])


def test_a_damaged_editor_and_edits_that_contradict_each_other_are_refused(
    model: LanguageModel, edits: tuple[Edit, ...], new_run: NewRun, tmp_path: Path
) -> None:
    file = tmp_path / "editor.safetensors"
    file.write_bytes(b"no tensors")
    with pytest.raises(StorageError):
        MEND(MENDSettings(editor_file=str(file), **QUICK))(model, edits, run=new_run())
    other = Edit("other", edits[0].subject, edits[0].prompt, "Denmark")
    with pytest.raises(RecordError, match="of one prompt"):
        MEND(MENDSettings(**QUICK))(model, (*edits, other), run=new_run("two"))
