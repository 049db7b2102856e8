"""Dated facts: three layouts read, and what is wrong in them refused with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keeps.data.dated import DYNAMIC, STATIC, dated_fingerprint, read_dated, state_of
from keeps.data.dated_layouts import span_of
from keeps.errors import EmptySetError, RecordError, SettingsError


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "facts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def fact(subject: str = "Norway", relation: str = "prime minister", **years: Any) -> dict[str, Any]:
    given = years or {"objects_2012": ["Stoltenberg"], "objects_2013": ["Stoltenberg", "Solberg"]}
    return {"subject": subject, "relation": relation, **given}


def test_a_row_a_fact_is_read_with_its_years_in_order(tmp_path: Path) -> None:
    row = {"objects_2013": ["Solberg"], "objects_2012": [["Stoltenberg"], ["Jens  Stoltenberg"]], "domain": "people"}
    [found] = read_dated(written(tmp_path, fact(**row)))
    assert found.id == "prime minister/Norway"
    assert found.wording == "Norway, prime minister, [Object]"
    assert list(found.objects.items()) == [(2012, ("Stoltenberg", "Jens Stoltenberg")), (2013, ("Solberg",))]
    assert (found.state, found.domain) == (DYNAMIC, "people")


def test_questions_have_answers_a_year(tmp_path: Path) -> None:
    row = {"question": "what is the fee of Form 7?", "answers_2012": ["30 dollars"], "answers_2013": "30 Dollars"}
    [found] = read_dated(written(tmp_path, row))
    assert (found.wording, found.relation, found.state) == ("what is the fee of Form 7?", "question", STATIC)


def test_statements_with_a_date_are_joined(tmp_path: Path) -> None:
    rows = [
        {"query": "Ada plays for _X_.", "date": date, "answers": [team], "relation": "P54", "id": f"Q1_P54_{date[:4]}"}
        for date, team in (("2013-05", "Lyon"), ("2012", "Metz"))
    ]
    [found] = read_dated(written(tmp_path, *rows))
    assert (found.id, found.relation, found.wording) == ("Q1_P54", "P54", "Ada plays for [Object].")
    assert found.objects == {2012: ("Metz",), 2013: ("Lyon",)}


def test_questions_with_a_span_are_joined_by_index(tmp_path: Path) -> None:
    rows = [
        {"index": "/wiki/Ada_B#P54", "relation": "P54", "question": text, "answers": answers}
        for text, answers in (
            ("Which team did Ada play for from 2004 to 2005?", ["Metz"]),
            ("Ada was with whom in 2005 to 2006?", ["Lyon"]),
            ("Which team did Ada play for in May 2009?", []),
            ("Which team is the best?", ["Lyon"]),
        )
    ]
    [found] = read_dated(written(tmp_path, *rows))
    assert (found.subject, found.wording) == ("Ada B", "which team did Ada play for?")
    assert found.objects == {2004: ("Metz",), 2005: ("Metz", "Lyon"), 2006: ("Lyon",)}


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("Who led it between Sep 1976 and Jan 1977?", (1976, 1977)),
        ("Who led it in 1976?", (1976, 1976)),
        ("From 1995 to 2001, who led it?", (1995, 2001)),
        ("Who led it from 2001 to 1995?", None),
        ("Who led it in the year of the flood?", None),
    ],
)
def test_spans_are_found_and_taken_out(text: str, span: tuple[int, int] | None) -> None:
    found = span_of(text)
    assert (found and found[0]) == span
    if found:
        assert found[1] == "who led it?"


def test_states_compare_sets_without_case() -> None:
    assert state_of({1: ["a", "B"], 2: ["b", "A"]}) == STATIC
    assert state_of({1: ["a"], 2: ["a", "b"]}) == DYNAMIC


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([fact(), fact("Spain", objects_2012=["A"])], "year 2013 is missing inside the frame .*line 2"),
        ([fact(objects_2012=["A"], objects_2014=["A"])], "year 2013 is missing"),
        ([fact(objects_2012=[], objects_2013=["A"])], 'list of objects is empty .*"objects_2012"'),
        ([fact(objects_2012=[" "], objects_2013=["A"])], "list of objects is empty"),
        ([fact(objects_99999=["A"], objects_2013=["A"])], '"99999" is no year'),
        ([fact(objects_0300=["A"], objects_0301=["A"])], '"0300" is no year .*write a year from 1000 to 2999'),
        ([fact(objects_next=["A"])], '"next" is no year'),
        ([fact(objects_2012=[3], objects_2013=["A"])], "an object is no text"),
        ([fact(objects_2012=["A"])], "single year"),
        ([{"subject": "Norway", "relation": "capital"}], "no year in it"),
        ([{"subject": "Norway", "objects_2012": ["A"], "objects_2013": ["A"]}], "no wording"),
        ([fact(), fact()], "two facts have the id"),
        ([fact(state="static", objects_2012=["A"], objects_2013=["B"])], "the state is static, and the objects change"),
        ([fact(state="dynamic", objects_2012=["A"], objects_2013=["a"])], "never change"),
        ([fact(state="fluid", objects_2012=["A"], objects_2013=["a"])], 'the state is "fluid"'),
        ([{"query": "Ada plays", "date": "2012", "answers": ["A"]}], "no blank"),
        ([{"query": "Ada _X_", "date": "soon", "answers": ["A"]}], '"soon" is no year'),
        ([{"query": "Ada _X_", "date": "2012", "answers": []}], "list of objects is empty"),
        ([{"query": "Ada _X_", "date": "2012", "answers": ["A"]}] * 2, "dated 2012 twice"),
    ],
)
def test_bad_rows_are_refused_with_their_place(tmp_path: Path, rows: list[dict[str, Any]], match: str) -> None:
    with pytest.raises(RecordError, match=match):
        read_dated(written(tmp_path, *rows))


def test_gaps_are_taken_where_they_are_allowed(tmp_path: Path) -> None:
    path = written(tmp_path, fact(objects_2012=["A"], objects_2014=["A"]))
    assert read_dated(path, gaps=True)[0].years == (2012, 2014)


def test_years_are_cut_out_of_the_frame(tmp_path: Path) -> None:
    row = fact(objects_2011=["A"], objects_2012=["B"], objects_2013=["B"])
    [found] = read_dated(written(tmp_path, row), years=(2012, 2013))
    assert (found.years, found.state) == ((2012, 2013), STATIC)
    for years in ((2010, 2012), (2012, 2014), (2013, 2012)):
        with pytest.raises(SettingsError, match="years"):
            read_dated(written(tmp_path, row), years=years)


def test_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmptySetError, match="no row"):
        read_dated(written(tmp_path))
    row = {"query": "Ada _X_", "date": "2012", "answers": ["A"]}
    with pytest.raises(EmptySetError, match="no fact has two years"):
        read_dated(written(tmp_path, row))


def test_fingerprints_follow_the_facts(tmp_path: Path) -> None:
    found = [
        dated_fingerprint(read_dated(written(tmp_path, fact(objects_2012=["A"], objects_2013=[last]))))
        for last in ("A", "B", "A")
    ]
    assert found[0] == found[2] != found[1]


@pytest.mark.shared_data
def test_published_files_are_read(shared_data: Path) -> None:
    templama = shared_data / "templama" / "dated_facts.jsonl"
    assert len(read_dated(templama, gaps=True)) == 928
    with pytest.raises(RecordError, match="year 2018 is missing inside the frame"):
        read_dated(templama)
    questions = read_dated(shared_data / "timeqa" / "human_questions.jsonl")
    assert {element.state for element in questions} == {STATIC, DYNAMIC}
    assert min(len(element.years) for element in questions) == 2
