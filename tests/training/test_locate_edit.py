"""A sequence of edits ends before ordinary text is changed too much, and is then as if the rest had not been asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from edit_contract import made, updates
from pico_models import pico

from keeps.contracts import Run
from keeps.data.edits import Edit
from keeps.edit.alphaedit import AlphaEdit, AlphaEditSettings
from keeps.errors import SettingsError
from keeps.models import LanguageModel
from keeps.models.earlier_keys import read_keys
from keeps.models.edit_files import read_entries

pytestmark = pytest.mark.usefixtures("local_text")
EDITS = (
    Edit("a", "Oslo", "Oslo is the capital of", "Sweden", "Norway"),
    Edit("b", "Mongolia", "The capital of Mongolia is", "Darkhan"),
    Edit("c", "Peru", "In the country of Peru people mostly speak", "German"),
)
METHODS: dict[str, dict[str, Any]] = {
    "rome": {"layer": 1},
    "memit": {"layers": (0, 1), "order": "sequential", "strength": 1.0},
    "alphaedit": {"layers": (0, 1), "threshold": 1e9, "strength": 0.01},
}


def changes(model: LanguageModel, method: str, folder: Path) -> list[float]:
    """What one, two and three edits change of ordinary text."""
    runs = [made(model, method, EDITS[:n], folder / str(n), **METHODS[method]) for n in (1, 2, 3)]
    return [run.record.measures["text_change"] for run in runs]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("method", list(METHODS))
def test_the_edits_that_fit_are_those_of_a_shorter_sequence(
    method: str, kind: str, smollm2: LanguageModel, tmp_path: Path
) -> None:
    model = pico(kind, smollm2.tokenizer)
    one, two, three = changes(model, method, tmp_path)
    assert one > 0
    last = 2 if max(one, two) < three else 1 if one < two else 0
    if not last:
        pytest.skip("this random model is changed less by more edits")
    limit = {2: (max(one, two) + three) / 2, 1: (one + two) / 2}[last]
    change = made(model, method, EDITS, tmp_path / "limited", text_limit=limit, **METHODS[method])
    assert [entry.id for entry in read_entries(change.folder)] == ["a", "b"][:last]
    assert change.record.measures["not_made"] == len(EDITS) - last
    assert change.record.measures["text_change"] <= limit
    shorter = made(model, method, EDITS[:last], tmp_path / "shorter", **METHODS[method])
    for name, update in updates(shorter).items():
        assert torch.equal(updates(change)[name], update)


def test_keys_of_edits_that_were_not_made_are_not_spared_later(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    one, two, _ = changes(model, "alphaedit", tmp_path)
    assert one < two
    limit = (one + two) / 2
    change = made(model, "alphaedit", EDITS, tmp_path / "limited", text_limit=limit, **METHODS["alphaedit"])
    assert {own.edits for own in read_keys(change.folder).values()} == {("a",)}


def test_a_group_is_made_whole_or_not_at_all(smollm2: LanguageModel, tmp_path: Path) -> None:
    model = pico("llama", smollm2.tokenizer)
    first = changes(model, "alphaedit", tmp_path)[0]
    quick = {"steps": 3, "moment_tokens": 400, "long_prefixes": 1, "edits_per_step": 2, **METHODS["alphaedit"]}
    editor = AlphaEdit(AlphaEditSettings.from_mapping({**quick, "text_limit": first}))
    (tmp_path / "run").mkdir()
    before = model.fingerprint
    with editor.steps(model, EDITS[0], Run(tmp_path / "run")) as steps:
        rows, values = steps.search(EDITS[:1])
        steps.put(EDITS[:1], rows, values)
        held = model.fingerprint
        shares = [  # of what every token gives, by the definition and not by the factors
            float(torch.trace(dw @ c @ dw.T) / torch.trace(w @ c @ w.T)) ** 0.5
            for layer, dw in steps.writer.changes.items()
            for w, c in [(steps.writer.original(layer), steps.moments[layer].matrix)]
        ]
        assert steps.text_change() == pytest.approx(max(shares), rel=1e-9)
        editor.settings = AlphaEditSettings.from_mapping({**quick, "text_limit": steps.text_change() * 0.5})
        assert steps.write(EDITS[1:]) == []
        assert model.fingerprint == held
        assert steps.not_made == ["b", "c"]
        assert [entry.id for entry in steps.entries] == ["a"]
    assert model.fingerprint == before


@pytest.mark.parametrize("method", list(METHODS))
def test_a_limit_that_no_edit_fits_is_refused_and_nothing_is_left(
    method: str, smollm2: LanguageModel, tmp_path: Path
) -> None:
    model = pico("llama", smollm2.tokenizer)
    before = model.fingerprint
    with pytest.raises(SettingsError, match=r"no edit was made.*raise text_limit"):
        made(model, method, EDITS, tmp_path / "run", text_limit=1e-9, **METHODS[method])
    assert model.fingerprint == before
    assert not list((tmp_path / "run").iterdir())
