"""Edits on disk: listed, parted, and refused where they cannot be parted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pico_models import pico

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.errors import SettingsError, StorageError, UnknownNameError
from keeps.models import LanguageModel
from keeps.models.changes import load_change
from keeps.models.edit_files import (
    EDITS_FILE,
    EditEntry,
    finish_weights,
    full_rank,
    joined,
    read_entries,
    withdraw,
)
from keeps.models.locate import mlp_outputs
from keeps.settings import Settings

EDITS = tuple(Edit(f"e{n}", "Oslo", "Oslo is in", f"land {n}", "Norway") for n in range(3))


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def change(smollm2: LanguageModel, tmp_path: Path) -> Any:
    """Three edits: the first and last of rank one in two layers, the second of rank two in one of them."""
    model = pico("llama", smollm2.tokenizer)
    first, second = (mlp_outputs(model.model)[n].name for n in (0, 2))
    factors = {first: (drawn(0, 4, 48), drawn(1, 32, 4)), second: (drawn(2, 2, 48), drawn(3, 32, 2))}
    shares = [{first: [0, 1], second: [0, 1]}, {first: [1, 3]}, {first: [3, 4], second: [1, 2]}]
    entries = [EditEntry.of(edit, share, loss=0.25) for edit, share in zip(EDITS, shares, strict=True)]
    folder = tmp_path / "run"
    folder.mkdir()
    return model, finish_weights("rome", Settings(), model, EDITS, factors, entries, Run(folder)), first, second


def test_the_list_holds_every_edit_its_share_and_what_was_measured(change: Any) -> None:
    model, made, first, _ = change
    entries = read_entries(made.folder)
    assert [entry.edit for entry in entries] == list(EDITS)
    assert entries[1].share == {first: [1, 3]}
    assert entries[1].measured == {"loss": 0.25}
    record = load_change(made.folder).record
    assert (record.kind, record.base_fingerprint, record.measures["edits"]) == ("adapter", model.fingerprint, 3)


@pytest.mark.parametrize("ids", [["e0"], ["e1"], ["e0", "e2"]])
def test_what_is_left_is_what_the_other_edits_wrote(change: Any, ids: list[str], tmp_path: Path) -> None:
    model, made, first, second = change
    ranks = {"e0": {first: [0], second: [0]}, "e1": {first: [1, 2]}, "e2": {first: [3], second: [1]}}
    before = made.factors()
    left: Any = withdraw(made.folder, ids, tmp_path / "left", model)
    found = left.factors()
    for name in (first, second):
        kept = [rank for edit in ("e0", "e1", "e2") if edit not in ids for rank in ranks[edit].get(name, [])]
        if not kept:
            assert name not in found
            continue
        a, b = before[name]
        torch.testing.assert_close(found[name][1] @ found[name][0], b[:, kept] @ a[kept])
    assert left.record.measures["withdrawn"] == ids
    for entry in read_entries(left.folder):
        for name, (start, end) in entry.share.items():
            a, b = found[name]
            own = ranks[entry.id][name]
            wanted = before[name][1][:, own] @ before[name][0][own]
            torch.testing.assert_close(b[:, start:end] @ a[start:end], wanted)
    left.apply(model).undo()  # peft reads it


def test_what_cannot_be_taken_out_is_refused(change: Any, tmp_path: Path) -> None:
    model, made, _, _ = change
    with pytest.raises(UnknownNameError, match="e1"):
        withdraw(made.folder, ["e9"], tmp_path / "left")
    with pytest.raises(SettingsError, match="no edit would be left"):
        withdraw(made.folder, ["e0", "e1", "e2"], tmp_path / "left")
    assert not (tmp_path / "left").exists()
    with torch.no_grad():
        next(model.model.parameters()).add_(1.0)
    with pytest.raises(StorageError, match="made for a base"):
        withdraw(made.folder, ["e0"], tmp_path / "left", model)


def test_edits_that_share_their_tensors_stay_together(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("gpt2", smollm2.tokenizer)
    name = mlp_outputs(model.model)[1].name
    update = drawn(0, 32, 32)
    entries = [EditEntry.of(edit, {name: [0, 32]}) for edit in EDITS]
    (tmp_path / "run").mkdir()
    made = finish_weights("rome", Settings(), model, EDITS, {name: full_rank(update)}, entries, Run(tmp_path / "run"))
    a, b = made.factors()[name]
    torch.testing.assert_close(b @ a, update)
    with pytest.raises(SettingsError, match="shares its part"):
        withdraw(made.folder, ["e0"], tmp_path / "left")


@given(rows=st.integers(1, 6), columns=st.integers(1, 6), seed=st.integers(0, 99))
def test_an_update_of_any_rank_is_stored_exactly(rows: int, columns: int, seed: int) -> None:
    update = drawn(seed, rows, columns).double()
    a, b = full_rank(update)
    assert torch.equal(b @ a, update)
    assert a.shape[0] == min(rows, columns)
    other = full_rank(drawn(seed + 1, rows, columns).double())
    a, b = joined([(a, b), other])
    torch.testing.assert_close(b @ a, update + other[1] @ other[0])


def test_a_folder_without_edits_or_with_a_damaged_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no edits are listed"):
        read_entries(tmp_path)
    (tmp_path / EDITS_FILE).write_text("{not json\n")
    with pytest.raises(StorageError, match="cannot be read"):
        read_entries(tmp_path)
