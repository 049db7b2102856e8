"""Naming data: parts of the world, marks, files, mixtures, and what is said when nothing fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from keeps.data import load_records
from keeps.data.records import Fact, RecordSet
from keeps.data.world import RELATIONS, default_marks, world_facts
from keeps.errors import EmptySetError, InputFileError, KeepsError, RecordError, SettingsError, UnknownNameError


def ids(spec: str | Path, **options: dict[str, str]) -> list[str]:
    return [record.id for record in load_records(spec, **options)]


def test_the_world_is_all_relations() -> None:
    assert ids("world") == [record.id for record in world_facts()]


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_relation_is_named_after_the_colon(relation: str) -> None:
    chosen = load_records(f"world:{relation}")
    assert len(chosen) >= 80
    assert all(isinstance(record, Fact) and record.relation == relation for record in chosen)


def test_marks_filter_alone_and_with_a_relation() -> None:
    marks = {"world:capital:norway": "known", "world:capital:peru": "unknown", "world:symbol:iron": "known"}
    assert ids("world:known", marks=marks) == ["world:capital:norway", "world:symbol:iron"]
    assert ids("world:unknown:capital", marks=marks) == ["world:capital:peru"]
    assert ids("world:known:capital,world:known:symbol", marks=marks) == ids("world:known", marks=marks)
    assert [record.mark for record in load_records("world:known", marks=marks) if isinstance(record, Fact)] == [
        "known"
    ] * 2


def test_the_shipped_marks_are_the_default() -> None:
    chosen = load_records("world:unknown:atomic_number,world:unknown:capital")
    assert len(chosen) >= 80
    assert all(default_marks()[record.id] == "unknown" for record in chosen)


def test_parts_mix_in_order_and_a_record_named_twice_is_taken_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("id,prompt,answer\na,The capital of Norway is,Oslo\n")
    chosen = ids(f"world:capital, {file} ,text,world:capital,{file}")
    assert chosen.count("world:capital:norway") == chosen.count("a") == 1
    assert chosen.index("world:capital:norway") < chosen.index("a") < len(chosen) - 100
    assert chosen[-1].startswith("text:")


def test_a_number_after_a_part_takes_so_many_of_its_records(tmp_path: Path) -> None:
    everything, forty, twenty = ids("world:capital"), ids("world:capital#40"), ids("world:capital#20")
    assert (len(forty), len(twenty)) == (40, 20)
    assert set(twenty) < set(forty) < set(everything), "a smaller sample is part of a larger one"
    assert forty == [name for name in everything if name in forty], "in the order of the whole"
    assert forty != everything[:40], "not just the beginning"
    assert ids("world:capital#9999") == everything
    file = tmp_path / "with#2.csv"
    file.write_text("id,prompt,answer\na,One and one is,2\nb,Two and two is,4\nc,One and two is,3\n")
    assert ids(str(file)) == ids(f"world:capital#1,{file}")[1:] == ["a", "b", "c"]
    assert len(ids(f"{file}#2")) == 2


@pytest.mark.parametrize("count", ["", "0", "-3", "4.5", "many", "٣"])
def test_a_sample_needs_a_number_of_records(count: str) -> None:
    with pytest.raises(SettingsError, match="is no number of records"):
        load_records(f"world:capital#{count}")


def test_one_id_for_two_records_is_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "one.csv", tmp_path / "other.csv"
    one.write_text("id,prompt,answer\na,The capital of Norway is,Oslo\n")
    other.write_text("id,prompt,answer\na,The capital of Latvia is,Riga\n")
    with pytest.raises(RecordError, match=r'one.csv" and ".*other.csv" both have the id "a"'):
        load_records(f"{one},{other}")


def test_a_path_and_a_set_are_taken_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "a, b.csv"
    file.write_text("text\nSome text.\n")
    assert len(load_records(file)) == len(load_records(str(file))) == 1
    chosen = RecordSet("mine", ())
    assert load_records(chosen) is chosen


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("world:capitol", UnknownNameError, 'did you mean "capital"'),
        ("world:known:capitol", UnknownNameError, 'did you mean "capital"'),
        ("world:knwon", UnknownNameError, 'did you mean "known"'),
        ("world:capital:known", UnknownNameError, "world:MARK:RELATION"),
        ("world:", UnknownNameError, 'no ""'),
        ("wrold", UnknownNameError, 'did you mean "world"'),
        ("wrold:capital", UnknownNameError, "world:capital"),
        ("txt", UnknownNameError, 'did you mean "text"'),
        ("", EmptySetError, "no data is named"),
        (" , ", EmptySetError, "no data is named"),
        ("none.jsonl", InputFileError, "no such file"),
        ("folder/none", InputFileError, "no such file"),
        ("world:capital," * 60 + "none.jsonl", InputFileError, "no such file"),
        ("a\0b", UnknownNameError, "neither data"),
    ],
)
def test_wrong_names_say_what_was_meant(spec: str, error: type[KeepsError], words: str) -> None:
    with pytest.raises(KeepsError, match=words) as caught:
        load_records(spec)
    assert type(caught.value) is error


def test_an_empty_selection_says_why() -> None:
    with pytest.raises(EmptySetError, match="none of these facts has been marked"):
        load_records("world:known:capital", marks={})
    with pytest.raises(EmptySetError, match="no fact is marked unknown"):
        load_records("world:unknown:capital", marks={"world:capital:norway": "known"})
