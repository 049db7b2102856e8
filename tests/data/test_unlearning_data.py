"""Forget, retain and holdout sets are read in their layouts, and sets that overlap are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keeps.data.records import split_of
from keeps.data.unlearning import Item, check_items, items_fingerprint, load_items
from keeps.errors import EmptySetError, InputFileError, RecordError, SettingsError

OSLO: dict[str, Any] = {"question": "Where does Per Berg live?", "answer": "In Oslo."}


def write(folder: Path, name: str, *rows: dict[str, Any]) -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_row_of_tofu_is_read_whole(tmp_path: Path) -> None:
    more = {"task_id": "1", "paraphrased_question": "In which town?", "perturbed_answer": ["In Rome.", "In Bonn."]}
    path = write(tmp_path, "a.jsonl", {**OSLO, **more, "paraphrased_answer": "Oslo is his home."})
    expected = Item("forget/1", "forget", OSLO["question"], "In Oslo.", "Oslo is his home.", ("In Rome.", "In Bonn."))
    assert load_items(f"forget={path}") == (expected,)


def test_parts_come_from_a_column_or_from_the_names_of_files(tmp_path: Path) -> None:
    rows = [{**OSLO, "part": "forget"}, {"text": "A text of its own.", "part": "holdout", "id": "t"}]
    one = load_items(str(write(tmp_path, "all.jsonl", *rows)))
    assert [(item.id, item.part, item.question) for item in one] == [
        ("forget/1", "forget", OSLO["question"]),
        ("holdout/t", "holdout", ""),
    ]
    first, second = write(tmp_path, "a.jsonl", OSLO), write(tmp_path, "b.jsonl", {**OSLO, "answer": "In Bergen."})
    both = load_items(f"forget={first},{second}")
    assert [item.id for item in both] == ["forget/1", "forget/2"]
    assert len(items_fingerprint(both)) == 16
    assert items_fingerprint(both) != items_fingerprint(one)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": " "}, "answer"),
        ({"answer": 7}, "not a text"),
        ({"perturbed_answer": ["a", ""]}, "wrong answers"),
        ({"perturbed_answers": ["a"]}, 'did you mean "perturbed_answer"'),
        ({"text": "both"}, "both"),
        ({"part": "forgot"}, "forget"),
        ({"part": None}, "does not say its part"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    good = {**OSLO, "part": "forget"}
    path = write(tmp_path, "a.jsonl", good, {**good, **change})
    with pytest.raises(RecordError, match=message) as error:
        load_items(str(path))
    assert "line 2" in str(error.value)


def test_sets_that_overlap_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", OSLO)
    for other in ("retain", "holdout"):
        with pytest.raises(RecordError, match=f"in forget and in {other}"):
            load_items(f"forget={path},{other}={path}")
    forget = Item("forget/1", "forget", "a", "b")
    both = [forget, Item("retain/1", "retain", "c", "d"), Item("holdout/1", "holdout", "c", "d")]
    with pytest.raises(RecordError, match="in retain and in holdout"):
        check_items(both, "mine")
    with pytest.raises(RecordError, match="stands twice"):
        check_items([forget, forget], "mine")


def test_without_anything_to_forget_nothing_is_asked(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", OSLO)
    with pytest.raises(EmptySetError, match="nothing is to be forgotten"):
        load_items(f"retain={path}")
    with pytest.raises(EmptySetError, match="no fact"):
        load_items("text")


@pytest.mark.parametrize("spec", ["forgot={0}", "forget={0},forget={0}", "{0},forget={0}"])
def test_odd_parts_are_refused(spec: str, tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", OSLO)
    with pytest.raises(SettingsError):
        load_items(spec.format(path))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="no such file"):
        load_items(f"forget={tmp_path / 'no.jsonl'}")


def test_facts_of_the_world_fall_into_parts_by_their_split() -> None:
    items = load_items("world:capital")
    names = {"train": "forget", "validation": "retain", "test": "holdout"}
    assert {item.part for item in items} == set(names.values())
    for item in items:
        subject = item.id.rpartition(":")[2].replace("_", " ")
        assert len(item.perturbed_answers) == 5
        assert item.answer not in item.perturbed_answers
        if item.question == f"The capital of {subject.title()} is":
            assert item.part == names[split_of(subject)]


@pytest.mark.shared_data
def test_tofu_is_read_and_its_overlaps_are_found(shared_data: Path) -> None:
    folder = shared_data / "tofu"
    parts = {
        "forget": "forget01_perturbed",
        "retain": "retain_perturbed",
        "real_authors": "real_authors_perturbed",
        "world_facts": "world_facts_perturbed",
    }
    items = load_items(",".join(f"{part}={folder / name}.jsonl" for part, name in parts.items()))
    assert len(items) == 400 + 200 + 100 + 117
    assert {len(item.perturbed_answers) for item in items if item.part == "forget"} == {5}
    with pytest.raises(RecordError, match="in forget and in retain"):
        load_items(f"forget={folder / 'forget10_sample.jsonl'},retain={folder / 'retain_sample.jsonl'}")
