"""Experts on disk: the change is the model that was written, other forms and damage are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from expert_models import wrapped_with

from keeps.contracts import ChangeRecord
from keeps.errors import KeepsError, SettingsError, StorageError, UnknownNameError
from keeps.models import LanguageModel
from keeps.models.changes import load_change, source_of
from keeps.models.expert_files import CONFIG_FILE, EXPERTS_FILE, ExpertsChange, write_experts
from keeps.models.logits import check_logits, largest_difference
from keeps.weights import load_tensors, save_tensors


@pytest.fixture
def stored_experts(tiny: LanguageModel, tmp_path: Path) -> tuple[ExpertsChange, list[torch.Tensor]]:
    """Experts on disk, and the logits of the model that they were written from."""
    folder = tmp_path / "run"
    folder.mkdir()
    wrapped = wrapped_with(tiny.model)
    logits = check_logits(tiny.model, tiny.tokenizer)
    write_experts(folder, wrapped, base=source_of(tiny))
    wrapped.unwrap()
    record = ChangeRecord("experts", "loramoe", {}, source_of(tiny), tiny.fingerprint, 0, {}, {})
    record.write(folder)
    change = load_change(folder)
    assert isinstance(change, ExpertsChange)
    return change, logits


def test_an_applied_change_is_the_written_model_and_undoing_it_gives_the_base_back(
    tiny: LanguageModel, stored_experts: Any
) -> None:
    change, logits = stored_experts
    before = tiny.fingerprint
    state = torch.get_rng_state()
    changed = change.apply(tiny)
    assert torch.equal(torch.get_rng_state(), state)
    assert largest_difference(check_logits(changed.model, tiny.tokenizer), logits) == 0
    with pytest.raises(StorageError, match="made for a base"):
        change.apply(tiny)
    changed.undo()
    changed.undo()
    assert tiny.fingerprint == before
    assert largest_difference(check_logits(tiny.model, tiny.tokenizer), logits) > 0.1


def test_a_changed_model_generates_and_scores_as_it_does_token_by_token(
    tiny: LanguageModel, stored_experts: Any
) -> None:
    """Cached keys and shared beginnings make no difference: the gate looks at one token."""
    changed = stored_experts[0].apply(tiny)
    scores = changed.logprob(["The sky is", "The sky is very"], ["blue", "wide"])
    for score, (prompt, answer) in zip(scores, (("The sky is", "blue"), ("The sky is very", "wide")), strict=True):
        before, after = changed.encode_pair(prompt, answer)
        with torch.no_grad():
            logits = changed.model(input_ids=torch.tensor([before + after])).logits[0].log_softmax(-1)
        expected = sum(float(logits[len(before) + i - 1, token]) for i, token in enumerate(after))
        assert score.logprob == pytest.approx(expected, abs=1e-3)
    changed.undo()


def test_the_experts_form_is_the_same_change_and_no_other_form_is_possible(
    tiny: LanguageModel, stored_experts: Any, tmp_path: Path
) -> None:
    change, _ = stored_experts
    assert change.export("experts", tmp_path / "out", model=tiny) == 0
    assert load_change(tmp_path / "out").fingerprint == change.fingerprint
    for form in ("merged", "lora", "residual"):
        with pytest.raises(SettingsError, match=r'depends on the token.*use form "experts"'):
            change.export(form, tmp_path / form, model=tiny)
        assert not (tmp_path / form).exists()
    with pytest.raises(UnknownNameError, match='did you mean "experts"'):
        change.export("expert", tmp_path / "no", model=tiny)


def edited(**values: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        found = json.loads((folder / CONFIG_FILE).read_text())
        (folder / CONFIG_FILE).write_text(json.dumps({**found, **values}))

    return damage


def with_tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    return lambda folder: save_tensors(folder / EXPERTS_FILE, change(load_tensors(folder / EXPERTS_FILE)))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no tensors": (lambda folder: (folder / EXPERTS_FILE).unlink(), "file is missing"),
    "tensors cut off": (lambda folder: (folder / EXPERTS_FILE).write_bytes(b"\0" * 40), "file is damaged"),
    "a tensor missing": (with_tensors(lambda t: dict(list(t.items())[1:])), "needs A, B, router"),
    "of another size": (with_tensors(lambda t: {k: v[..., :-1] for k, v in t.items()}), "do not fit the model's layer"),
    "of another layer": (with_tensors(lambda t: {f"x{k}": v for k, v in t.items()}), "do not fit the model's layer"),
    "no configuration": (lambda folder: (folder / CONFIG_FILE).unlink(), f"there is no {CONFIG_FILE}"),
    "configuration cut off": (lambda folder: (folder / CONFIG_FILE).write_text("{"), "cannot be read"),
    "a list": (lambda folder: (folder / CONFIG_FILE).write_text("[]"), "has format None"),
    "of another version": (edited(format=9), "has format 9, this version of keeps reads format 1"),
    "types of nothing": (edited(types=[]), "not that of experts"),
    "types as text": (edited(types=["a", "b"]), "not that of experts"),
    "no rank": (edited(rank=None), "not that of experts"),
    "another rank": (edited(rank=2), "do not fit the model's layer"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_files_are_refused_and_leave_the_model_alone(
    tiny: LanguageModel, stored_experts: Any, case: str
) -> None:
    change, _ = stored_experts
    damage, words = DAMAGES[case]
    damage(change.folder)
    with pytest.raises(KeepsError, match=words) as caught:
        change.apply(tiny)
    assert isinstance(caught.value, StorageError)
    assert str(change.folder) in str(caught.value)
