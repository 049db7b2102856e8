from __future__ import annotations

from pathlib import Path

import pytest

from keeps.claims.published import published_file, published_rows
from keeps.errors import EmptySetError, InputFileError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_file_is_found_by_its_name_and_folder_before_others_of_its_name(tmp_path: Path) -> None:
    other = write(tmp_path / "a" / "b" / "dev.jsonl", "{}")
    assert published_file(tmp_path, "nq/dev.jsonl") == other
    own = write(tmp_path / "nq" / "dev.jsonl", "{}")
    assert published_file(tmp_path, "nq/dev.jsonl") == own
    assert published_file(tmp_path / "nq", "nq/dev.jsonl") == own


def test_rows_are_read_in_order_and_blank_lines_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl", '{"a": 1, "b": 2}\n\n{"a": 3, "b": [4]}\n')
    assert published_rows(tmp_path, "x.jsonl", "a", "b") == [{"a": 1, "b": 2}, {"a": 3, "b": [4]}]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"a": 1}\n{"a": \n', r"no JSON .*line 2"),
        ('{"a": 1}\n{"b": 1}\n', r"lacks a .*line 2"),
        ("[1]\n", r"lacks a .*line 1"),
    ],
)
def test_what_is_no_row_is_refused_with_its_line(text: str, match: str, tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl", text)
    with pytest.raises(InputFileError, match=match):
        published_rows(tmp_path, "x.jsonl", "a")


def test_an_absent_or_empty_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=r"no zsre.jsonl.*holds zsre/zsre.jsonl"):
        published_rows(tmp_path, "zsre/zsre.jsonl")
    write(tmp_path / "x.jsonl", "\n")
    with pytest.raises(EmptySetError, match="no rows"):
        published_rows(tmp_path, "x.jsonl")
