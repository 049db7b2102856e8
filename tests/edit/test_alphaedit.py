"""AlphaEdit: updates stay in the null space, spare earlier edits, and can be continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from edit_contract import TEXT, check_edits_and_undo, check_forward, made, updates
from pico_models import MAKERS, pico

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.edit.alphaedit import AlphaEdit, AlphaEditSettings
from keeps.edit.memit import MEMITSettings
from keeps.errors import SettingsError, StatisticsError, StorageError
from keeps.jobs.editing_onto import onto
from keeps.models import LanguageModel
from keeps.models.earlier_keys import EARLIER, read_keys
from keeps.models.edit_files import withdraw
from keeps.models.locate import mlp_outputs
from keeps.models.moments import second_moments
from keeps.numerics.editing import Moment, null_basis
from keeps.numerics.nullspace import null_space
from keeps.registry import find_method

pytestmark = pytest.mark.usefixtures("local_text")
EDITS = (
    Edit("a", "Oslo", "Oslo is the capital of", "Sweden", "Norway"),
    Edit("b", "Mongolia", "The capital of Mongolia is", "Darkhan"),
)
ROOM = {"threshold": 0.05, "strength": 0.01}


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_edits_are_made_on_models_of_every_kind_and_undone(kind: str, smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico(kind, smollm2.tokenizer)
    wide = {"threshold": 1e9, "strength": 1e-3}
    change = check_edits_and_undo(model, "alphaedit", EDITS, tmp_path / "run", **wide)
    check_forward(model, change)


@pytest.mark.parametrize("order", ["sequential", "batch"])
def test_the_update_stays_in_the_null_space(order: str, smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    change = made(model, "alphaedit", EDITS, tmp_path / "run", order=order, layers=(1,), **ROOM)
    c = second_moments(model, [1], tokens=400, text=TEXT, cache=tmp_path / "own")[1]
    basis = null_basis(Moment.of(c.matrix, ridge=1e-4).matrix, ROOM["threshold"])
    assert 0 < basis.shape[1] < 48
    update = next(iter(updates(change).values()))
    outside = update - update @ basis @ basis.T
    assert float(outside.norm() / update.norm()) < 1e-5
    assert change.record.measures["null_space_share"] == pytest.approx(basis.shape[1] / 48)


def test_a_share_of_the_energy_takes_the_place_of_the_threshold(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    change = made(model, "alphaedit", EDITS, tmp_path / "run", layers=(1,), energy=0.05, strength=0.01)
    c = Moment.of(second_moments(model, [1], tokens=400, text=TEXT, cache=tmp_path / "own")[1].matrix, ridge=1e-4)
    basis = null_space(c.matrix, 0.95).basis.double()
    held = float((basis.T @ c.matrix.double() @ basis).trace() / c.matrix.double().trace())
    assert 0 < held <= 0.05
    update = next(iter(updates(change).values()))
    assert float((update - update @ basis @ basis.T).norm() / update.norm()) < 1e-5


def test_the_ridge_counts_as_no_use(smollm2: LanguageModel, tmp_path: Path) -> None:
    """What is divided by is lifted by the ridge; what is unused stays unused."""
    model = pico("llama", smollm2.tokenizer)
    found = [
        made(model, "alphaedit", EDITS[:1], tmp_path / f"{ridge}", layers=(1,), ridge=ridge, **ROOM)
        for ridge in (0.0, 100.0)
    ]
    one, other = (change.record.measures["null_space_share"] for change in found)
    assert one == other
    torch.testing.assert_close(*(next(iter(updates(change).values())) for change in found), rtol=1e-5, atol=1e-7)


def test_keys_of_earlier_edits_are_kept_and_spared_by_later_ones(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    first = made(model, "alphaedit", EDITS[:1], tmp_path / "first", layers=(1,), **ROOM)
    stored = read_keys(first.folder)
    assert {layer: (own.edits, tuple(own.keys.shape)) for layer, own in stored.items()} == {1: (("a",), (48, 1))}
    options = {"steps": 12, "moment_tokens": 400, "short_prefixes": 1, "long_prefixes": 1, "layers": (1,), **ROOM}
    method = AlphaEdit(AlphaEditSettings.from_mapping(options))
    method.continue_from(first.folder)
    (tmp_path / "second").mkdir()
    second = method(model, EDITS[1:], run=Run(tmp_path / "second"))
    alone = made(model, "alphaedit", EDITS[1:], tmp_path / "alone", layers=(1,), **ROOM)
    key = stored[1].keys[:, 0].double()
    moved = [float((next(iter(updates(each).values())) @ key).norm()) for each in (second, alone)]
    assert moved[0] < moved[1]
    both = read_keys(second.folder)[1]
    assert both.edits == ("a", "b")
    assert torch.equal(both.keys[:, :1], stored[1].keys)


@pytest.mark.parametrize(("method", "base"), [("rome", {}), ("lti", {"base": "rome"}), ("lti", {"base": "alphaedit"})])
def test_keys_stay_where_another_method_edits_on_top(
    method: str, base: dict[str, Any], smollm2: LanguageModel, tmp_path: Path
) -> None:
    model = pico("llama", smollm2.tokenizer)
    first = made(model, "alphaedit", EDITS[:1], tmp_path / "first", layers=(1,), **ROOM)
    quick = {"steps": 2, "moment_tokens": 400, "short_prefixes": 1, "long_prefixes": 1, **base}
    own = {**quick, **({"layer": 1} if method == "rome" else {"layers": (1,)})}
    own |= ROOM if base.get("base") == "alphaedit" else {}
    info = find_method(method, "edit")
    settings = info.settings.from_mapping(own)
    (tmp_path / "run").mkdir()
    onto(info, settings, first).implementation(settings)(model, EDITS[1:], run=Run(tmp_path / "run"))
    kept = read_keys(tmp_path / "run")[1]
    assert kept.edits == (("a", "b") if base.get("base") == "alphaedit" else ("a",))
    assert torch.equal(kept.keys[:, :1], read_keys(first.folder)[1].keys)


def test_the_keys_of_withdrawn_edits_go_and_those_of_the_others_stay(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    three = (*EDITS, Edit("c", "zinc", "The symbol of zinc is", "Qx"))
    change = made(model, "alphaedit", three, tmp_path / "run", layers=(0, 1), **ROOM)
    whole = read_keys(change.folder)
    left = read_keys(withdraw(change.folder, ["b"], tmp_path / "left", model).folder)
    assert sorted(left) == [0, 1]
    for layer, own in left.items():
        assert own.edits == ("a", "c")
        assert torch.equal(own.keys, whole[layer].keys[:, [0, 2]])
    method = AlphaEdit(AlphaEditSettings())
    method.continue_from(tmp_path / "left")
    assert method.earlier[1].edits == ("a", "c")


def test_keys_that_cannot_be_read_are_refused_before_an_edit_is_withdrawn(
    smollm2: LanguageModel, tmp_path: Path
) -> None:
    model = pico("llama", smollm2.tokenizer)
    change = made(model, "alphaedit", EDITS, tmp_path / "run", layers=(1,), **ROOM)
    (change.folder / EARLIER).write_bytes(b"\0" * 40)
    with pytest.raises(StorageError):
        withdraw(change.folder, ["b"], tmp_path / "left", model)
    assert not (tmp_path / "left").exists()
    assert [path.name for path in tmp_path.iterdir() if "left" in path.name] == []


def test_several_edits_a_step_are_several_batches_one_after_another(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    three = (*EDITS, Edit("c", "zinc", "The symbol of zinc is", "Qx"))
    whole = made(model, "alphaedit", three, tmp_path / "whole", layers=(1,), edits_per_step=2, **ROOM)
    first = made(model, "alphaedit", three[:2], tmp_path / "first", layers=(1,), order="batch", **ROOM)
    update, begun = next(iter(updates(whole).values())), next(iter(updates(first).values()))
    a, b = next(iter(whole.factors().values()))
    torch.testing.assert_close(b[:, :2].double() @ a[:2].double(), begun, rtol=1e-4, atol=1e-6)
    assert float((update - begun).norm()) > 1e-3
    with pytest.raises(SettingsError, match="edits_per_step"):
        AlphaEditSettings(order="batch", edits_per_step=2)


def test_without_a_null_space_it_is_refused(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    with pytest.raises(StatisticsError, match="null space is empty"):
        made(model, "alphaedit", EDITS, tmp_path / "run", threshold=1e-12)


def test_it_counts_layers_from_the_models_own(smollm2: LanguageModel) -> None:
    model = pico("llama", smollm2.tokenizer)
    assert AlphaEditSettings().chosen_layers(model) == [0, 1]  # the last block reaches no later token
    assert MEMITSettings(layers=(2,)).chosen_layers(model) == [2]
    assert len(mlp_outputs(model.model)) == 3
