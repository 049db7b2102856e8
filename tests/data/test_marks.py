"""Marks: the rule, case by case, and a file that is written whole or not at all."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from keeps.data.world import (
    MARKS,
    default_marks,
    few_shot_examples,
    few_shot_prompt,
    mark_of,
    read_marks,
    relation_facts,
    world_facts,
    write_marks,
)
from keeps.errors import InputFileError, StorageError


@pytest.mark.parametrize("greedy", list(itertools.product([False, True], repeat=3)))
@pytest.mark.parametrize("four_shot", [False, True])
@pytest.mark.parametrize("top5", [None, (False, False, False), (False, False, True)])
def test_the_rule_agrees_with_its_statement_in_every_case(
    greedy: tuple[bool, ...], four_shot: bool, top5: tuple[bool, ...] | None
) -> None:
    known = greedy.count(True) >= 2 or (True in greedy and four_shot)
    unknown = True not in greedy and not four_shot and (top5 is None or True not in top5)
    expected = "known" if known else "unknown" if unknown else "uncertain"
    assert mark_of(greedy, four_shot, top5) == expected


def test_the_shipped_marks_are_of_facts_that_exist_and_of_every_kind() -> None:
    marks = default_marks()
    assert set(marks.values()) == set(MARKS)
    named = {identity for identity in marks if not identity.startswith("world:hypernym:")}  # WordNet may be absent
    assert named <= {fact.id for fact in world_facts(marks={})}
    assert len(marks) >= 1000
    assert marks["world:capital:afghanistan"] == "known"


def test_marks_survive_writing_and_leave_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "marks.json"
    marks = {"world:capital:norway": "known", "world:symbol:iron": "unknown"}
    write_marks(path, {}, model="other")
    write_marks(path, marks, model="tiny", fingerprint="00ff")
    assert read_marks(path) == marks
    assert [item.name for item in tmp_path.iterdir()] == ["marks.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    path = tmp_path / "marks.json"
    write_marks(path, {"a": "known"}, model="tiny")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_marks(path, {"a": "unknown"}, model="tiny")
    assert read_marks(path) == {"a": "known"}
    assert [item.name for item in tmp_path.iterdir()] == ["marks.json"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"format": 2, "marks": {}}',
        '{"format": 1, "marks": {"a": "maybe"}}',
        '{"format": 1, "marks": 3}',
    ],
)
def test_a_damaged_file_of_marks_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "marks.json"
    path.write_text(content)
    with pytest.raises(InputFileError, match="no file of marks"):
        read_marks(path)
    with pytest.raises(InputFileError, match="no such file"):
        read_marks(tmp_path / "none.json")


def test_examples_are_of_the_relation_fixed_and_never_the_fact_itself() -> None:
    facts = relation_facts("capital", marks={})
    shown = {fact.id: few_shot_examples(fact, facts) for fact in facts}
    common = few_shot_examples(facts[0], facts)
    for fact in facts:
        assert len({example.id for example in shown[fact.id]}) == 4
        assert fact not in shown[fact.id]
        assert fact in common or shown[fact.id] == common or facts[0] in shown[fact.id]
    assert few_shot_examples(facts[5], facts[::-1]) == shown[facts[5].id]


def test_solved_examples_stand_before_the_prompt_without_a_space_after_a_plus() -> None:
    facts = relation_facts("calling_code", marks={})
    fact = facts[0]
    lines = few_shot_prompt(fact, few_shot_examples(fact, facts)).split("\n")
    assert lines[-1] == fact.prompts[0]
    assert len(lines) == 5
    assert all(line.split("+")[1].isdigit() for line in lines[:-1])
