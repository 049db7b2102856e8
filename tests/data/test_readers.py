"""Reading files: every format gives the same records, and every bad file one plain error."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from keeps.data.readers import read_records
from keeps.data.records import Dialogue, Example, Fact, Passage
from keeps.errors import EmptySetError, InputFileError, KeepsError, MissingDependencyError

sys.path.insert(0, str(Path(__file__).parents[1]))
from malformed_inputs import MALFORMED, Malformed

ROWS = [
    {"id": "no", "prompt": "The capital of Norway is", "answer": "Oslo"},
    {"id": "lv", "prompt": "The capital of Latvia is", "answer": "Riga"},
]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def as_jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    import io

    import pyarrow as arrow
    import pyarrow.parquet as parquet

    sink = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(rows), sink)
    return sink.getvalue()


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.id)
def test_malformed_input_gives_one_paragraph_that_names_file_place_and_mend(case: Malformed, tmp_path: Path) -> None:
    path = case.write(tmp_path)
    with pytest.raises(KeepsError) as caught:
        read_records(path)
    message = str(caught.value)
    assert type(caught.value) is case.error
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 700 + len(str(path))
    assert caught.value.mend
    for word in case.words:
        assert word in message
    assert path.read_bytes() == case.content
    assert [item.name for item in tmp_path.iterdir()] == [case.name]


def test_the_table_of_malformed_inputs_has_unique_ids_and_is_long_enough() -> None:
    assert len({case.id for case in MALFORMED}) == len(MALFORMED) >= 40


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("facts.jsonl", as_jsonl(ROWS)),
        ("FACTS.JSONL", as_jsonl(ROWS).replace("\n", "\r\n\r\n")),
        ("facts.json", json.dumps(ROWS, indent=2)),
        ("facts.csv", "id,prompt,answer\nno,The capital of Norway is,Oslo\n\nlv,The capital of Latvia is,Riga\n"),
        ("quoted.csv", 'answer,id,prompt\r\n"Oslo",no,"The capital of Norway is"\r\nRiga,lv,The capital of Latvia is'),
        ("facts.tsv", "id\tquestion\tanswer\nno\tThe capital of Norway is\tOslo\nlv\tThe capital of Latvia is\tRiga\n"),
        ("facts.parquet", as_parquet(ROWS)),
    ],
)
def test_every_format_gives_the_same_records(name: str, content: str | bytes, tmp_path: Path) -> None:
    records = read_records(written(tmp_path, name, content)).records
    assert records == (
        Example("no", "The capital of Norway is", "Oslo"),
        Example("lv", "The capital of Latvia is", "Riga"),
    )


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_a_byte_order_mark_is_tolerated(name: str, tmp_path: Path) -> None:
    content = {"a.jsonl": '{"text": "é"}', "a.json": '[{"text": "é"}]', "a.csv": "text\né\n", "a.txt": "é"}[name]
    records = read_records(written(tmp_path, name, b"\xef\xbb\xbf" + content.encode())).records
    assert isinstance(records[0], Passage)
    assert records[0].text == "é"


def test_paragraphs_of_a_text_file_are_passages(tmp_path: Path) -> None:
    records = read_records(written(tmp_path, "a.txt", "\nOne line,\nand another.\n\n \nThe second.\n")).records
    assert [record.text for record in records if isinstance(record, Passage)] == [
        "One line,\nand another.",
        "The second.",
    ]


def test_facts_get_three_wordings_where_none_are_given(tmp_path: Path) -> None:
    rows = [
        {"subject": "Norway", "relation": "head_of_state", "object": "Harald V", "aliases": ["King Harald"]},
        {
            "subject": "Norway",
            "relation": "capital",
            "objects": ["Oslo", "Christiania"],
            "prompts": ["Norway's capital is"],
        },
    ]
    first, second = read_records(written(tmp_path, "a.jsonl", as_jsonl(rows))).records
    assert isinstance(first, Fact)
    assert isinstance(second, Fact)
    assert len(set(first.prompts)) >= 3
    assert all("Norway" in prompt and "head of state" in prompt for prompt in first.prompts)
    assert first.answers == ("Harald V", "King Harald")
    assert (second.prompts, second.answers) == (("Norway's capital is",), ("Oslo", "Christiania"))
    assert second.provenance.endswith("a.jsonl, line 2")


def test_dialogues_keep_roles_and_order(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    row = {"messages": [*messages, {"role": "assistant", "content": "2"}]}
    (record,) = read_records(written(tmp_path, "a.jsonl", as_jsonl([row]))).records
    assert isinstance(record, Dialogue)
    assert record.messages == (("system", "Be brief."), ("user", "1+1?"), ("assistant", "2"))


@pytest.mark.parametrize("answer", ["Oslo", 1, "1"])
def test_an_answer_among_choices_is_given_as_text_or_index(answer: str | int, tmp_path: Path) -> None:
    row = {"question": "Capital of Norway?", "answer": answer, "choices": ["Bergen", "Oslo", "Riga"]}
    (record,) = read_records(written(tmp_path, "a.jsonl", as_jsonl([row]))).records
    assert isinstance(record, Example)
    assert (record.answer, record.choices) == ("Oslo", ("Bergen", "Oslo", "Riga"))


def test_lists_in_csv_cells_are_json_or_separated_by_bars(tmp_path: Path) -> None:
    text = 'prompt,answer,choices\na,x,"[""x"", ""y|z""]"\nb,y,x | y\n'
    one, two = read_records(written(tmp_path, "a.csv", text)).records
    assert isinstance(one, Example)
    assert isinstance(two, Example)
    assert (one.choices, two.choices) == (("x", "y|z"), ("x", "y"))


def test_numbers_are_answers_and_prompts_lose_trailing_spaces(tmp_path: Path) -> None:
    (record,) = read_records(written(tmp_path, "a.jsonl", '{"prompt": "Iron has number ", "answer": 26}')).records
    assert isinstance(record, Example)
    assert (record.prompt, record.answer) == ("Iron has number", "26")


def test_derived_ids_depend_on_the_content_alone(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{key: row[key] for key in ("prompt", "answer")} for row in ROWS]
    one = read_records(written(tmp_path, "a.jsonl", as_jsonl(rows))).records
    other = read_records(written(tmp_path, "b.json", json.dumps(rows[::-1]))).records
    assert [record.id for record in one] == [record.id for record in other[::-1]]
    thrice = read_records(written(tmp_path, "c.jsonl", as_jsonl(rows[:1] * 3))).records
    assert [record.id for record in thrice] == [one[0].id, f"{one[0].id}-2", f"{one[0].id}-3"]


def test_columns_of_other_names_are_passed_over(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "title": "Norway", "context": None}]
    assert len(read_records(written(tmp_path, "a.jsonl", as_jsonl(rows)))) == 1


def test_limit_reads_the_first_rows_and_stops_there(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", as_jsonl(ROWS) + "not JSON\n")
    assert len(read_records(path, limit=2)) == 2
    with pytest.raises(InputFileError, match="limit is 0"):
        read_records(path, limit=0)


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    written(tmp_path, "facts.jsonl", as_jsonl(ROWS))
    with pytest.raises(InputFileError, match=r"no such file .*did you mean \"facts.jsonl\""):
        read_records(tmp_path / "fact.jsonl")
    for path in (tmp_path / "no" / "facts.csv", tmp_path / ("x" * 400), tmp_path / "facts.jsonl" / "a.csv", "a\0.csv"):
        with pytest.raises(InputFileError, match="no such file"):
            read_records(path)


def test_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    import os

    written(tmp_path, "facts.jsonl", as_jsonl(ROWS))
    with pytest.raises(InputFileError, match=r"a folder .*such as facts.jsonl"):
        read_records(tmp_path)
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    with pytest.raises(InputFileError, match="no regular file"):
        read_records(pipe)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_a_file_without_permission_says_so(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, name, "x")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)  # the super-user may open any file
    with pytest.raises(InputFileError, match="permission denied"):
        read_records(path)


def test_a_data_set_of_the_hub_is_read_through_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "mine"
    folder.mkdir()
    written(folder, "train.jsonl", as_jsonl(ROWS))
    written(folder, "test.jsonl", as_jsonl(ROWS[:1]))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    assert len(read_records(f"hf:{folder}")) == 2
    assert len(read_records(f"hf:{folder}:test")) == 1
    assert len(read_records(f"hf:{folder}:train:default", limit=1)) == 1
    with pytest.raises(InputFileError, match="check the id, the split and the config"):
        read_records(f"hf:{folder}:nowhere")


def test_an_unreachable_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'squad' on the Hub\n(LocalEntryNotFoundError)")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(InputFileError, match=r"cannot be reached .*\(hf:squad:train\): connect to the network"):
        read_records("hf:squad:train")
    for name in ("hf:", "hf::train", "hf:a:b:c:d"):
        with pytest.raises(InputFileError, match="no id"):
            read_records(name)


def test_an_empty_data_set_is_an_empty_set(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: [])
    with pytest.raises(EmptySetError, match="hf:mine"):
        read_records("hf:mine")


@pytest.mark.parametrize(("library", "name"), [("pyarrow", "a.parquet"), ("datasets", "hf:mine")])
def test_a_missing_library_is_named(library: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "a.parquet", as_parquet(ROWS))
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependencyError, match=f"pip install {library}"):
        read_records(name if name.startswith("hf:") else tmp_path / name)
