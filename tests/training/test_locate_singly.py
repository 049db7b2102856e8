"""Each edit alone: the same changes as edits made one at a time, and the weights back at every one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from edit_contract import QUICK, made, updates
from pico_models import pico

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.errors import RecordError
from keeps.models import LanguageModel
from keeps.models.changes import load_change
from keeps.models.edit_files import read_entries
from keeps.registry import find_method
from keeps.training import locate_singly
from keeps.training.locate_singly import each_alone

pytestmark = pytest.mark.usefixtures("local_text")
EDITS = (
    Edit("a", "Oslo", "Oslo is the capital of", "Sweden", "Norway"),
    Edit("b", "Mongolia", "The capital of Mongolia is", "Darkhan"),
    Edit("c", "Peru", "In the country of Peru people mostly speak", "German"),
)


def editor(method: str, **settings: Any) -> Any:
    info = find_method(method, "edit")
    return info.implementation(info.settings.from_mapping({**QUICK, **settings}))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("rome", {"layer": 1}),
        ("r_rome", {"layer": 1}),
        ("memit", {"layers": [0, 1]}),
        ("emmet", {"layers": [0, 1]}),
        ("alphaedit", {"layers": [0, 1], "energy": 0.5}),
    ],
)
def test_side_by_side_each_edit_is_what_it_is_alone(
    method: str,
    settings: dict[str, Any],
    kind: str,
    smollm2: LanguageModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(locate_singly, "SIDE_BY_SIDE", 2)
    model = pico(kind, smollm2.tokenizer)
    before, changes = model.fingerprint, []
    for change in each_alone(editor(method, **settings), model, EDITS, run=Run(tmp_path)):
        assert model.fingerprint == before
        change.apply(model).undo()
        changes.append(change)
    assert model.fingerprint == before
    assert len(changes) == len(EDITS)
    for edit, change in zip(EDITS, changes, strict=True):
        alone = made(model, method, [edit], tmp_path / f"alone-{edit.id}", **settings)
        expected, found = updates(alone), updates(load_change(change.folder))
        assert set(found) == set(expected)
        for name, update in found.items():
            assert float((update - expected[name]).norm()) <= 1e-3 * float(expected[name].norm())
        assert [entry.id for entry in read_entries(change.folder)] == [edit.id]
        assert change.record.base_fingerprint == before
        assert change.record.measures["edits"] == 1
        assert change.record.measures["update_norm"] == pytest.approx(alone.record.measures["update_norm"], rel=1e-3)


def test_edits_that_contradict_each_other_may_each_be_made_alone(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    other = Edit("d", EDITS[0].subject, EDITS[0].prompt, "Peru")
    found = list(each_alone(editor("rome", layer=1), model, (EDITS[0], other), run=Run(tmp_path)))
    first, second = (next(iter(updates(change).values())) for change in found)
    assert not torch.allclose(first, second)


def test_an_edit_that_cannot_be_made_is_refused_before_any_is(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    wrong = Edit("e", "Rome", "Oslo is the capital of", "Peru")
    with pytest.raises(RecordError, match="Rome"):
        next(each_alone(editor("rome", layer=1), model, (*EDITS, wrong), run=Run(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_whoever_stops_midway_has_the_weights_back(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    before = model.fingerprint
    changes = each_alone(editor("memit", layers=[0, 1]), model, EDITS, run=Run(tmp_path))
    next(changes)
    changes.close()
    assert model.fingerprint == before
