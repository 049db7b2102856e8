"""The job: edits are made, asked about, listed, continued and withdrawn; bad input costs no model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import keeps
from keeps.cli.main import main
from keeps.data.edits import Edit, EditPrompt
from keeps.errors import KeepsError, RecordError, SettingsError, StorageError, UnknownNameError
from keeps.jobs import list_edits, withdraw_edits
from keeps.jobs.editing import edit
from keeps.jobs.editing_data import edit_from_words, guessed_subject
from keeps.jobs.editing_singly import edit_singly
from keeps.models import LanguageModel
from keeps.models.changes import load_change

QUICK: dict[str, Any] = {
    "layer": 0,
    "steps": 15,
    "learning_rate": 1.0,
    "clamp": 200.0,
    "moment_tokens": 300,
    "short_prefixes": 1,
    "long_prefixes": 0,
}
FIRST = Edit(
    "a",
    "Oslo",
    "Oslo is the capital of",
    "Sweden",
    locality=(EditPrompt("same_relation", "Paris is the capital of", ("France",)),),
)
SECOND = Edit("b", "Mongolia", "The capital of Mongolia is", "Darkhan")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A workspace, a file to keep, and little text."""
    folder = tmp_path_factory.mktemp("editing")
    keep = folder / "keep.jsonl"
    rows = [{"prompt": f"The double of {n} is", "answer": str(2 * n)} for n in range(6)]
    keep.write_text("\n".join(map(json.dumps, rows)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keeps.jobs.editing_data.PROBE_PASSAGES", 2)
        patch.setattr("keeps.models.moments.cache_folder", lambda: folder / "cache")
        patch.setattr("keeps.models.moments.TEXT", "text")
        yield {"keep": str(keep), "workspace": folder / "space", "generation_tokens": 8, "settings": QUICK}


@pytest.fixture(scope="module")
def model(tiny_llama_folder: Path) -> LanguageModel:
    return LanguageModel.load(tiny_llama_folder)


def test_an_edit_is_made_asked_about_listed_continued_and_withdrawn(
    model: LanguageModel, small: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = model.fingerprint
    outcome = edit(FIRST, model=model, **small)
    assert model.fingerprint == before
    assert outcome.value("rewrite.exact") is not None
    assert outcome.value("locality.exact") is not None
    assert outcome.value("fluency.ngram_entropy") is not None
    assert [entry.id for entry in outcome.entries] == ["a"]
    assert outcome.entries[0].target_true, "what the model said before"
    assert outcome.diff.total("keep") is not None
    assert outcome.diff.text_total() is not None
    scores = {row.metric: row.value for row in outcome.findings.measures if row.model == outcome.run_id}
    assert scores["rewrite.probability"] != before_value(outcome, "rewrite.probability")
    if outcome.value("rewrite.exact") == 0:
        assert any("did not take" in warning for warning in outcome.warnings)
    again = edit(FIRST, model=model, **small)
    assert again.reused
    assert again.run_id == outcome.run_id

    second = edit(SECOND, model=model, after=outcome.run_id, **small)
    assert model.fingerprint == before
    assert [entry.id for entry in second.entries] == ["a", "b"]
    name = next(iter(second.entries[0].share))
    assert [entry.share[name] for entry in second.entries] == [[0, 1], [1, 2]]
    both: Any = load_change(second.folder)
    first: Any = load_change(outcome.folder)
    assert both.factors()[name][0][:1].equal(first.factors()[name][0])
    workspace = str(small["workspace"])
    assert [entry.id for entry in list_edits(second.run_id, workspace=workspace)] == ["a", "b"]
    assert main(["edit", "--list", second.run_id, "--workspace", workspace]) == 0
    assert 'Oslo is the capital of "Sweden"' in capsys.readouterr().out

    left = withdraw_edits(["b"], second.run_id, workspace=workspace)
    alone: Any = load_change(left)
    assert alone.factors()[name][1].equal(first.factors()[name][1])
    alone.apply(model).undo()
    assert model.fingerprint == before
    with pytest.raises(UnknownNameError, match='no edit "z"'):
        withdraw_edits(["z"], second.run_id, left.with_name("other"), workspace=workspace)
    with pytest.raises(StorageError, match="exists already"):
        withdraw_edits(["a"], second.run_id, left, workspace=workspace)


def before_value(outcome: Any, metric: str) -> float | None:
    found = [item for item in outcome.findings.measures if item.metric == metric and item.model != outcome.run_id]
    return next((item.value for item in found if item.group == "all"), None)


def test_each_edit_alone_is_measured_from_the_untouched_model(model: LanguageModel, small: dict[str, Any]) -> None:
    del small
    found = edit_singly(model, [FIRST, SECOND], method="rome", settings=QUICK, generation_tokens=0)
    assert found.restored
    assert len(found.seconds) == 2
    assert {row.details["edit"] for row in found.after} == {"a", "b"}
    assert {row.id for row in found.after} == {row.id for row in found.before}


def test_bad_input_is_refused(model: LanguageModel, small: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match='want "Sweden" and "Peru"'):
        edit([FIRST, Edit("z", "Oslo", "Oslo is the capital of", "Peru")], model=model, **small)
    with pytest.raises(RecordError, match="does not name the subject"):
        edit(Edit("z", "Rome", "Oslo is the capital of", "Peru"), model=model, **small)
    with pytest.raises(SettingsError, match='in the order "batch"'):
        edit(FIRST, model=model, order="batch", **small)
    with pytest.raises(KeepsError, match="choose 0 to 1"):
        edit(FIRST, model=model, **{**small, "settings": {**QUICK, "layer": 9}})
    said = model.ask([FIRST.prompt], ["x"])[0].text
    with pytest.raises(SettingsError, match="already"):
        edit(Edit("z", "Oslo", FIRST.prompt, said), model=model, **small)
    with pytest.raises(KeepsError, match="no finished edit run"):
        edit(FIRST, model=model, after="smollm2-135m", **small)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["edit"], "name what to edit"),
        (["edit", "--set", "Oslo is in", ""], "target of the edit is empty"),
        (["edit", "--set", "Oslo is in", "Sweden", "--file", "x.jsonl"], "name what to edit"),
        (["edit", "--set", "Oslo is in", "Sweden", "--set", "Rome is in", ""], "target of the edit is empty"),
        (["edit", "--set", "Oslo is in", "", "--set", "Rome is in", "Spain"], "target of the edit is empty"),
        (["edit", "--set", "Oslo is in", "x", "--set=Rome is in", "y", "--subject", "Oslo"], "2 --set and 1 --subject"),
        (["edit", "--file", "x.jsonl", "--subject", "Oslo"], "--subject belongs to --set"),
        (["edit", "--withdraw", "a"], "belong together"),
        (["edit", "--set", "Oslo is in", "Sweden", "--single", "--after", "x"], "--single keeps nothing"),
        (["edit", "--file", "missing.jsonl"], "missing.jsonl"),
        (["edit", "--set", "Oslo is in", "Sweden", "--method", "roma"], 'did you mean "rome"'),
        (["edit", "--set", "Oslo is in", "Sweden", "--form", "residual", "--out", "x"], "cannot be written"),
    ],
)
def test_the_command_refuses_in_one_paragraph(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_every_set_becomes_an_edit_in_order_with_its_own_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def caught(edits: Any, *_: Any, **options: Any) -> Any:
        seen.update(edits=edits, command=options["command"])
        raise SettingsError("caught", where="test", mend="none")

    monkeypatch.setattr("keeps.jobs.edit", caught)
    two = ["--set", "Oslo is in", "Sweden", "--set", "what is water made of", "wine"]
    assert main(["edit", *two]) == 2
    assert [(e.id, e.subject, e.prompt, e.target_new) for e in seen["edits"]] == [
        ("edit-1", "Oslo", "Oslo is in", "Sweden"),
        ("edit-2", "", "what is water made of", "wine"),
    ]
    again = shlex.split(seen["command"])[1:]
    assert main(again) == 2
    assert [e.target_new for e in seen["edits"]] == ["Sweden", "wine"], "the command that is noted does the same"
    assert main(["edit", *two, "--subject", "Oslo", "--subject", "water"]) == 2
    assert [e.subject for e in seen["edits"]] == ["Oslo", "water"]
    assert main(["edit", *two[:3]]) == 2
    assert seen["edits"].id == "edit-1"


def test_the_command_shows_its_options_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["edit", "--method", "memit", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--strength" in shown
    assert "--withdraw" in shown
    assert "keeps edit --list" in shown


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("The capital of Mongolia is", "Mongolia"),
        ("Oslo is the capital of", "Oslo"),
        ("The mother tongue of Danielle Darrieux is", "Danielle Darrieux"),
        ("The capital of the Republic of Korea is", "Republic of Korea"),
        ("what is water made of", ""),
        ("The sky is", ""),
    ],
)
def test_a_subject_that_is_not_named_is_guessed_or_left_empty(prompt: str, subject: str) -> None:
    assert guessed_subject(prompt) == subject
    assert edit_from_words(prompt, "something").subject == subject


def test_a_recipe_may_edit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("command: edit\nfile: missing.jsonl\nmethod: memit\nsettings:\n  strength: 10\n")
    assert main(["run", str(recipe)]) == 2
    assert "missing.jsonl" in capsys.readouterr().err


def test_the_verb_is_called_as_a_function_and_is_a_room() -> None:
    from keeps.edit.rome import ROME

    assert callable(keeps.edit)
    assert ROME.info.verb == "edit"  # type: ignore[attr-defined]
