"""The marks of another model are measured once, and a probe of a run asks what its base was marked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import keeps
from keeps.data.world import default_marks, relation_facts
from keeps.data.world.marks import default_marks_fingerprint, read_marks
from keeps.errors import EmptySetError, StorageError
from keeps.jobs.adapting import adapt
from keeps.jobs.differing import diff
from keeps.jobs.models import marks_for, stored_marks
from keeps.jobs.probing import probe
from keeps.models import LanguageModel
from keeps.probe import marks as measuring


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A cache of its own, and the names of models whose marks are measured (two relations of them)."""
    monkeypatch.setenv("KEEPS_CACHE", str(tmp_path / "cache"))
    whole, seen = measuring.mark_world, []

    def mark_some(model: LanguageModel, **options: Any) -> dict[str, str]:
        seen.append(model.name)
        return {**whole(model, relations=["symbol"], **options), **KNOWN}

    monkeypatch.setattr(measuring, "mark_world", mark_some)
    return seen


# What the random model is said to know, so that there is something to keep.
KNOWN = {
    fact.id: "known" if number % 2 else "unknown" for number, fact in enumerate(relation_facts("capital", marks={}))
}


def test_the_default_model_has_its_shipped_marks(smollm2: LanguageModel, measured: list[str]) -> None:
    assert smollm2.fingerprint == default_marks_fingerprint()
    assert marks_for(smollm2, "world:known") == default_marks()
    assert measured == []


def test_marks_of_another_model_are_measured_once_and_only_where_asked_for(
    model: LanguageModel, measured: list[str], tmp_path: Path
) -> None:
    assert marks_for(model, "world:capital", "my_unknown_facts.csv") is None
    assert measured == []
    first = marks_for(model, "text", "world:unknown:symbol")
    assert measured == [model.name]
    assert first is not None
    assert {fact.id for fact in relation_facts("symbol", marks={})} <= set(first)
    assert marks_for(model, "world:known") == first
    assert measured == [model.name], "measured again"
    [path] = (tmp_path / "cache" / "marks").iterdir()
    assert read_marks(path) == first == stored_marks(model.fingerprint)


def test_a_cache_that_cannot_be_written_is_refused_before_measuring(
    model: LanguageModel, measured: list[str], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(StorageError):
        marks_for(model, "world:known")
    assert measured == []


def test_a_job_and_its_diff_use_the_marks_of_its_own_model(small_job: Any, measured: list[str], tmp_path: Path) -> None:
    arguments = {**small_job.arguments(tmp_path), "model": small_job.model, "learn": "world:unknown:capital"}
    run = adapt(**arguments | {"keep": "world:known:capital", "settings": {**small_job.settings, "steps": 1}})
    learned = {item.id for item in run.diff.items if item.group == "learn: capital"}
    assert learned == {identity for identity, mark in KNOWN.items() if mark == "unknown"}
    again = diff(run.run_id, small_job.model, workspace=tmp_path)  # the questions are put together anew
    assert {item.id for item in again.items} == {item.id for item in run.diff.items}
    assert len(measured) == 1
    asked = probe(run.run_id, "world:known:capital", workspace=tmp_path)
    assert {row.id for row in asked.rows} == {identity for identity, mark in KNOWN.items() if mark == "known"}
    assert len(measured) == 1, "known means known to the base, not to the changed model"


def test_a_probe_is_stored_and_asked_once(small_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = keeps.probe(small_job.model, small_job.keep, workspace=tmp_path)
    assert (first.results[0].name, len(first.rows), first.reused) == (small_job.model, 24, False)
    monkeypatch.setattr("keeps.probe.facts.FactProbe.__call__", lambda *_, **__: pytest.fail("asked again"))
    again = keeps.probe(small_job.model, small_job.keep, workspace=tmp_path)
    assert again.reused
    assert (again.results[0].result_id, list(again.rows)) == (first.results[0].result_id, list(first.rows))


def test_a_probe_of_facts_and_text_together(small_job: Any, tmp_path: Path) -> None:
    (tmp_path / "mixed.jsonl").write_text('{"text": "The sea is wide."}\n{"prompt": "Two and two is", "answer": "4"}\n')
    rows = probe(small_job.model, str(tmp_path / "mixed.jsonl"), workspace=tmp_path).rows
    assert [(row.kind, row.group) for row in rows] == [("fact", "examples"), ("text", "text")]


def test_a_set_without_any_record_is_refused(small_job: Any, tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("prompt,answer\n")
    with pytest.raises(EmptySetError):
        probe(small_job.model, str(tmp_path / "none.csv"), workspace=tmp_path)
