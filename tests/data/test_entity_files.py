"""Tables and documents from files; what cannot be understood is refused with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keeps.data.entities import Entity, EntityDocument
from keeps.data.entity_files import read_entities
from keeps.errors import EmptySetError, InputFileError, RecordError


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_become_entities_and_documents_find_theirs_by_name(tmp_path: Path) -> None:
    write(tmp_path / "db_hotel.jsonl", [{"id": "7", "name": "Alpha", "area": "north", "stars": 4, "phone": "?",
          "pool": True, "price": {"single": 50}, "dogs": ["big"], "note": None}])  # fmt: skip
    rows = [{"domain": "hotel", "entity": "ALPHA", "title": "Pets?", "body": "No."},
            {"domain": "hotel", "entity": "Beta", "body": "Quiet."},
            {"domain": "taxi", "entity": None, "title": "Tip?", "body": "No tips."}]  # fmt: skip
    write(tmp_path / "faq.jsonl", rows)
    base = read_entities(str(tmp_path))
    assert base.by_id["hotel/Alpha"] == Entity(
        "hotel",
        "Alpha",
        {"area": "north", "stars": "4", "pool": "yes", "price": {"single": "50"}, "dogs": ("big",)},
        (EntityDocument("Pets?", "No."),),
    )
    assert base.by_id["hotel/Beta"].slots == {}
    assert base.by_id["taxi/taxi"].documents[0].body == "No tips."
    both = read_entities(f"{tmp_path / 'db_hotel.jsonl'}, {tmp_path / 'faq.jsonl'}", leave_out=("stars",))
    assert "stars" not in both.by_id["hotel/Alpha"].slots
    assert len(both) == len(base) == 3


def test_a_table_of_a_spreadsheet_and_nested_documents_are_read(tmp_path: Path) -> None:
    (tmp_path / "house.csv").write_text("name,area\nAlpha,north\n")
    nested = {"house": {"alpha": {"pets": {"title": "Pets?", "body": "No."}}}}
    (tmp_path / "documents.json").write_text(json.dumps(nested))
    (entity,) = read_entities(tmp_path)
    assert (entity.id, entity.slots) == ("house/Alpha", {"area": "north"})
    assert entity.documents == (EntityDocument("Pets?", "No.", "pets"),)


@pytest.mark.parametrize(
    ("name", "text", "error", "said"),
    [
        ("a.jsonl", '{"area": "north"}\n', RecordError, 'neither "name" nor'),
        ("a.jsonl", '{"name": " "}\n', RecordError, "a.jsonl, line 1"),
        ("a.jsonl", '{"name": "x"}\n{"name": "X"}\n', RecordError, "stands twice"),
        ("a.jsonl", '{"entity": "x", "body": ""}\n', RecordError, "the document is empty"),
        ("a.jsonl", '{"name": "x", "area": [[1]]}\n', RecordError, 'column "area"'),
        ("a.json", '{"hotel": [1]}', InputFileError, "not sorted by domain"),
        ("a.json", '{"hotel": ', InputFileError, "damaged"),
        ("a.xyz", "", InputFileError, "no known format"),
    ],
)
def test_what_cannot_be_understood_is_refused(
    tmp_path: Path, name: str, text: str, error: type[Exception], said: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match=said):
        read_entities(str(tmp_path / name))


def test_an_empty_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EmptySetError, match="holds no table"):
        read_entities(tmp_path)
    with pytest.raises(InputFileError, match="no such file"):
        read_entities(str(tmp_path / "no.csv"))


@pytest.mark.shared_data
def test_published_tables_and_documents_are_those_of_the_paper(shared_data: Path) -> None:
    """222 entities, 33 hotels, 110 restaurants, 79 attractions, with 15 documents a restaurant (as published)."""
    tables = [shared_data / "multiwoz" / f"db_{name}.jsonl" for name in ("hotel", "restaurant", "attraction")]
    base = read_entities([*tables, shared_data / "dstc9_knowledge" / "snippets.jsonl"], leave_out=("location",))
    counts = {domain: len(base.of(domain)) for domain in ("hotel", "restaurant", "attraction")}
    assert counts == {"hotel": 33, "restaurant": 110, "attraction": 79}
    documents = {domain: sum(len(e.documents) for e in base.of(domain)) / counts[domain] for domain in counts}
    assert documents["attraction"] == 0
    assert documents["restaurant"] == pytest.approx(15.0, abs=0.1)
    assert documents["hotel"] == pytest.approx(36.5, abs=0.6)
