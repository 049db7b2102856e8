"""Dated facts of both layouts become invariant, updated and new statements."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from keeps.data.dated_slots import dated_slots, is_dated_file, read_dated
from keeps.errors import EmptySetError, RecordError, SettingsError

WHOLE = [
    {"subject": "Ann", "relation": "plays for", "objects_2019": ["Lyon"], "objects_2020": ["Lyon"]},
    {"subject": "Bob", "relation": "plays for", "objects_2019": ["Lyon", "OL"], "objects_2020": ["Porto"]},
    {"subject": "Cyd", "relation": "plays for", "objects_2019": [], "objects_2020": ["Porto"]},
    {"subject": "Dan", "relation": "plays for", "objects_2019": ["Lyon"], "objects_2020": []},
    {"subject": "Eve", "relation": "plays for", "objects_2019": ["Lyon", "Porto"], "objects_2020": ["Lyon"]},
    {"subject": "Fay", "relation": "plays for", "objects_2018": ["Lyon"], "objects_2020": ["Porto"]},
    {"subject": "Gus", "relation": "plays for", "objects_2019": ["lyon"], "objects_2020": ["Lyon", "Porto"]},
]


def written(folder: Path, rows: list[dict]) -> Path:
    path = folder / "dated.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_what_stayed_changed_and_came_up(tmp_path: Path) -> None:
    found = dated_slots(written(tmp_path, WHOLE), 2019, 2020)
    assert [(slot.kind, slot.statement, slot.answers, slot.old_answers) for slot in found] == [
        ("invariant", "Ann plays for ___", ("Lyon",), ()),
        ("invariant", "Gus plays for ___", ("Lyon", "Porto"), ()),
        ("updated", "Bob plays for ___", ("Porto",), ("Lyon", "OL")),
        ("new", "Cyd plays for ___", ("Porto",), ()),
    ]
    assert {slot.task for slot in found} == {"invariant", "updated", "new"}


def test_a_relation_is_said_by_its_template(tmp_path: Path) -> None:
    rows = [{**WHOLE[1], "relation": "P54"}]
    templates = {"P54": "{h} is under contract with {t} now"}
    [slot] = dated_slots(written(tmp_path, rows), 2019, 2020, templates=templates)
    assert slot.statement == "Bob is under contract with ___ now"
    assert slot.before_blank == "Bob is under contract with"


def test_one_row_a_year(tmp_path: Path) -> None:
    rows = [
        {"pair_id": 3, "query": "Bob plays for _X_.", "date": "2019-05", "answers": ["Lyon"]},
        {"pair_id": 3, "query": "Bob plays for _X_.", "date": "2020", "answers": ["Porto"]},
        {"pair_id": 3, "query": "Bob trains _X_.", "date": "2020", "answers": ["Ann"]},
    ]
    path = written(tmp_path, rows)
    assert is_dated_file(path)
    facts = list(read_dated(path))
    assert [(fact.id, fact.years) for fact in facts] == [
        ("3", {2019: ("Lyon",), 2020: ("Porto",)}),
        ("3-2", {2020: ("Ann",)}),
    ]
    [slot] = dated_slots(path, 2019, 2020)
    assert (slot.statement, slot.kind, slot.old_answers) == ("Bob plays for ___.", "updated", ("Lyon",))


def test_bad_years_and_rows_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, WHOLE)
    with pytest.raises(SettingsError, match="let after be the later"):
        dated_slots(path, 2020, 2020)
    with pytest.raises(EmptySetError, match=r"both 2001 and 2002.*2018, 2019, 2020"):
        dated_slots(path, 2001, 2002)
    with pytest.raises(RecordError, match="no wording"):
        dated_slots(written(tmp_path, [{"objects_2019": ["a"]}]), 2019, 2020)
    with pytest.raises(RecordError, match="no blank"):
        dated_slots(written(tmp_path, [{"statement": "Bob plays.", "date": "2020", "answers": ["a"]}]), 2019, 2020)
    with pytest.raises(RecordError, match="no dated fact"):
        dated_slots(written(tmp_path, [{"statement": "Bob is ___.", "answers": ["a"]}]), 2019, 2020)
    with pytest.raises(RecordError, match="object is no text"):
        dated_slots(written(tmp_path, [{**WHOLE[0], "objects_2019": [3]}]), 2019, 2020)


@pytest.mark.shared_data
def test_real_dated_facts(shared_data: Path) -> None:
    path = shared_data / "templama" / "dated_facts.jsonl"
    assert is_dated_file(path)
    found = dated_slots(path, 2010, 2020)
    counts = Counter(slot.kind for slot in found)
    assert counts["updated"] > 50
    assert counts["invariant"] > 0
    assert all("___" in slot.statement and slot.answers for slot in found)
    assert all(not set(slot.answers) & set(slot.old_answers) for slot in found if slot.kind == "updated")
