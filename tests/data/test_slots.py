"""Statements with blanks from every layout, their kinds, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keeps.data.slots import Slot, is_slot_file, read_answers, read_slots
from keeps.errors import EmptySetError, InputFileError, KeepsError, RecordError


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_in_the_published_layout(tmp_path: Path) -> None:
    path = written(tmp_path, "invariantLAMA.csv", "id,input,output\nq1,Oslo is the capital of <extra_id_0> .,Norway\n")
    [slot] = read_slots(path)
    assert slot == Slot("q1", "invariantLAMA", "Oslo is the capital of ___ .", ("Norway",), (), "invariant")
    assert slot.before_blank == "Oslo is the capital of"


def test_old_and_new_answers_make_an_updated_fact(tmp_path: Path) -> None:
    rows = 'statement,old_answer,new_answer\nThe king is [MASK].,"[""Olav"", ""Olav V""]",Harald\n'
    [slot] = read_slots(written(tmp_path, "facts.csv", rows))
    assert (slot.kind, slot.answers, slot.old_answers) == ("updated", ("Harald",), ("Olav", "Olav V"))
    assert slot.id == "1"


def test_a_table_of_answers_adds_what_else_is_right(tmp_path: Path) -> None:
    path = written(
        tmp_path, "new.csv", "id,statement,answer\n7,The vaccine is ___.,Comirnaty\n8,The year is ___.,2021\n"
    )
    more = written(tmp_path, "answers.json", json.dumps({"7": ["BNT162b2", "Comirnaty"]}))
    seven, eight = read_slots(path, answers=more)
    assert seven.answers == ("Comirnaty", "BNT162b2")
    assert eight.answers == ("2021",)
    assert {slot.kind for slot in (seven, eight)} == {"new"}


def test_columns_say_task_and_kind(tmp_path: Path) -> None:
    rows = [
        {"statement": "A is _X_.", "answer": "b", "task": "one", "kind": "new"},
        {"statement": "A is __.", "answer": ["c", "d"], "task": "two", "kind": "invariant"},
        {"question": "What is A?", "answer": 3, "task": "two"},
    ]
    path = written(tmp_path, "mixed.jsonl", "\n".join(map(json.dumps, rows)))
    found = read_slots(path)
    assert [(slot.task, slot.kind, slot.answers) for slot in found] == [
        ("one", "new", ("b",)),
        ("two", "invariant", ("c", "d")),
        ("two", "", ("3",)),
    ]
    assert found[2].before_blank == "What is A?"


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ("statement,answer\nOslo is a city.,yes\n", RecordError, "has no blank"),
        ("statement,answer\n___ is in ___.,Oslo\n", RecordError, "has 2 blanks"),
        ("statement,answer\n,Oslo\n", RecordError, "no statement"),
        ("statement,answer\nOslo is ___.,\n", RecordError, "no answer"),
        ("statement,old_answer\nOslo is ___.,small\n", RecordError, "go together"),
        ("statement,answer,kind\nOslo is ___.,big,old\n", RecordError, '"old" is no kind'),
        ("id,statement,answer\n1,Oslo is ___.,big\n1,Rome is ___.,big\n", RecordError, '"1" stands twice'),
        ('statement,answer\nOslo is ___.,"[""big"""\n', RecordError, "not valid JSON"),
        ("statement,answer\n", EmptySetError, "no statement"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, rows: str, error: type[KeepsError], message: str) -> None:
    with pytest.raises(error, match=message):
        read_slots(written(tmp_path, "facts.csv", rows))


def test_an_id_may_stand_in_two_tasks(tmp_path: Path) -> None:
    rows = "id,task,statement,answer\n1,a,Oslo is ___.,big\n1,b,Rome is ___.,big\n"
    assert len(read_slots(written(tmp_path, "facts.csv", rows))) == 2


@pytest.mark.parametrize(("text", "message"), [("[1]", "no object of ids"), ("{", "not valid"), ('{"1": []}', "empty")])
def test_bad_tables_of_answers_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises((InputFileError, RecordError), match=message):
        read_answers(written(tmp_path, "answers.json", text))


def test_files_of_other_records_are_told_apart(tmp_path: Path) -> None:
    assert is_slot_file(written(tmp_path, "a.csv", "statement,answer\nOslo is ___.,big\n"))
    assert not is_slot_file(written(tmp_path, "b.csv", "prompt,answer\nOslo is,big\n"))
    assert not is_slot_file(written(tmp_path, "c.csv", "prompt,answer\n"))
