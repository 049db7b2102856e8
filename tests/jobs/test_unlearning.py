"""The unlearning job: what is asked, what is refused, what an attack brings back, and that nothing is repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import keeps
from keeps.cli.main import main
from keeps.data.records import Example, Fact, Passage, RecordSet, split_of
from keeps.errors import EmptySetError, RecordError, SettingsError
from keeps.jobs.unlearning_data import unlearn_data
from keeps.jobs.verifying import relearning
from keeps.models import LanguageModel
from keeps.models.changes import load_change

FORGET = RecordSet("gone", tuple(Example(f"f{n}", f"The number after {n} is", str(n + 1)) for n in range(6)))
RETAIN = RecordSet("stays", tuple(Example(f"r{n}", f"The double of {n} is", str(2 * n)) for n in range(20)))
HOLDOUT = RecordSet("unseen", tuple(Example(f"h{n}", f"The square of {n} is", str(n * n)) for n in range(4)))
SETTINGS: dict[str, Any] = {"rank": 2, "steps": 2, "batch_size": 4}


def write(path: Path, records: RecordSet) -> str:
    rows = [{"id": r.id, "prompt": r.prompt, "answer": r.answer} for r in records]  # type: ignore[union-attr]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_method_trains_on_one_part_of_the_retain_set_and_another_is_reported() -> None:
    data = unlearn_data(FORGET, RETAIN)
    assert data.learn == FORGET
    assert {split_of(record.prompt) for record in data.keep} == {"train"}  # type: ignore[union-attr]
    groups: dict[str, set[str]] = {}
    for question in data.probe.probes[0].questions:  # type: ignore[attr-defined]
        groups.setdefault(question.group.partition(":")[0], set()).add(question.id)
    assert set(groups) == {"forget", "retain", "retained in training"}
    assert groups["forget"] == {record.id for record in FORGET}
    assert not groups["retain"] & {record.id for record in data.keep}


def test_what_both_sets_name_is_forgotten_if_it_is_built_in_and_refused_otherwise() -> None:
    data = unlearn_data("world:capital#5", "world:capital#60")
    assert not {record.id for record in data.learn} & {record.id for record in data.keep}
    with pytest.raises(RecordError, match="to be forgotten and to be retained"):
        unlearn_data(FORGET, RecordSet("both", (*RETAIN, FORGET.records[0])))


@pytest.mark.parametrize(
    ("forget", "retain", "error", "message"),
    [
        (RecordSet("none", ()), RETAIN, EmptySetError, "nothing to forget"),
        (FORGET, RecordSet("few", RETAIN.records[:1]), EmptySetError, "none falls into"),
    ],
)
def test_sets_with_nothing_in_them_are_refused(
    forget: RecordSet, retain: RecordSet, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        unlearn_data(forget, retain)


def test_bad_options_are_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    nowhere: Any = {"model": str(tmp_path / "no-model"), "workspace": tmp_path}
    with pytest.raises(SettingsError, match="holdout would do nothing"):
        keeps.unlearn(FORGET, RETAIN, holdout=HOLDOUT, **nowhere)
    with pytest.raises(RecordError, match="is in forget and in holdout"):
        keeps.unlearn(FORGET, RETAIN, holdout=FORGET, verify=True, **nowhere)
    with pytest.raises(SettingsError, match="contradict"):
        keeps.unlearn(FORGET, RETAIN, resume=True, restart=True, **nowhere)


def test_a_job_is_done_once_verified_and_found_again(model: LanguageModel, tmp_path: Path) -> None:
    job: dict[str, Any] = {"method": "npo", "model": model, "settings": SETTINGS, "workspace": tmp_path}
    job.update(verify=True, holdout=HOLDOUT, relearn_steps=2)
    done = keeps.unlearn(FORGET, RETAIN, **job)
    assert not done.reused
    assert load_change(done.folder).record.method == "npo"
    assert "Forgotten: gone. To retain: stays." in (done.folder / "README.md").read_text()
    assert {line.name for line in done.diff.totals} == {"forget", "retain", "retained in training"}
    found = done.verification
    assert found is not None
    metrics = {measure.metric for measure in found.findings.measures}
    assert {"extraction_strength", "exact_memorisation", "mia.min_k.area", "mia.gradient_norm.area"} <= metrics
    assert [attack.n for attack in found.attacks] == [6, 3]
    assert any("retain-model" in note for note in found.notes)
    assert found.tables[-1].rows
    again = keeps.unlearn(FORGET, RETAIN, **job)
    assert again.reused
    assert again.run_id == done.run_id
    assert again.verification == found


def test_relearning_leaves_the_model_as_it_was_and_is_left_out_where_there_is_no_weight(
    model: LanguageModel, tmp_path: Path
) -> None:
    done = keeps.unlearn(
        FORGET, RETAIN, method="icul", model=model, settings={"shots": 1}, workspace=tmp_path, verify=True
    )
    assert done.verification is not None
    assert [attack.name for attack in done.verification.attacks] == ["any of several other wordings"]
    texts = RecordSet("texts", (Passage("p", "A text."), Passage("q", "Another text.")))
    assert relearning(model, load_change(done.folder), texts, steps=3) is None


def test_facts_are_asked_in_the_wording_that_was_never_trained_on() -> None:
    prompts = ("A is", "It is said that A is", "As we know A is", "Nobody doubts that A is")
    facts = RecordSet("facts", tuple(Fact(f"{n}", f"s{n}", "kind", prompts, (f"x{n}",)) for n in range(3)))
    questions = unlearn_data(facts, RETAIN).probe.probes[0].questions  # type: ignore[attr-defined]
    unseen = [question for question in questions if question.group == "forget: kind, unseen wording"]
    assert [question.prompts for question in unseen] == [prompts[-1:]] * 3


def test_the_command_prints_what_went_and_what_stayed(
    small_job: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forget, retain = write(tmp_path / "gone.jsonl", FORGET), write(tmp_path / "stays.jsonl", RETAIN)
    words = ["unlearn", "--forget", forget, "--retain", retain, "--model", small_job.model, "--quiet"]
    words += ["--workspace", str(tmp_path / "runs"), "--rank", "2", "--steps", "2", "--batch-size", "4"]
    assert main([*words, "--json", "--device", "cpu"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["run"].startswith("npo-")
    assert {line["name"] for line in document["diff"]["totals"]} >= {"forget", "retain"}
    assert document["attacks"] is None
    assert main([*words, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "forgotten of what was known" in said
    assert "found in the ledger" in said


def test_the_help_of_the_command_shows_examples_and_the_settings_of_the_method(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["unlearn", "--method", "rmu", "--help"]) == 0
    said = capsys.readouterr().out
    assert "--coefficient" in said
    assert "Examples" in said
    assert main(["unlearn", "--method", "npo"]) == 2, "a forget set must be named"
