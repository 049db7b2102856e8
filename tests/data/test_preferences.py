"""Preference pairs: recognised by their columns, refused where a response is missing, empty or the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keeps.data.readers import read_records
from keeps.data.records import Preference
from keeps.errors import RecordError


def read(folder: Path, **row: object) -> Preference:
    path = folder / "pairs.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (record,) = read_records(path).records
    assert isinstance(record, Preference)
    return record


def test_a_row_with_both_responses_is_a_pair(tmp_path: Path) -> None:
    record = read(tmp_path, prompt="Say hello. ", chosen="Hello!", rejected="No.", answer="passed over")
    assert (record.prompt, record.chosen, record.rejected) == ("Say hello.", "Hello!", "No.")
    assert read(tmp_path, question="Say hello.", chosen="Hello!", rejected="No.", id="7").id == "7"
    assert read(tmp_path, prompt="Say hello.", chosen="Hello!", rejected="No.").id == record.id
    assert read(tmp_path, prompt="Say hello.", chosen="Hello!", rejected="Never.").id != record.id


def test_it_is_asked_for_the_preferred_response(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "Say hello.", "chosen": "Hello!", "rejected": "No."}\n')
    (question,) = read_records(path).questions("learn")
    assert (question.group, question.prompts, question.answers) == ("learn: preferences", ("Say hello.",), ("Hello!",))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Say hello.", "chosen": "Hello!"}, 'the column "rejected" is missing'),
        ({"prompt": "Say hello.", "chosen": "Hello!", "rejected": " "}, "the value is empty"),
        ({"prompt": "Say hello.", "chosen": "Hello!", "rejected": "Hello!"}, "is the rejected one"),
        ({"prompt": "Say hello.", "chosen": ["Hello!"], "rejected": "No."}, "is a list, not a text"),
    ],
)
def test_half_a_pair_is_refused(tmp_path: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        read(tmp_path, **row)
