"""Pairs of answers that people judged, from which the threshold of semantic match is set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeps.data.formats import ROWS
from keeps.data.rows import Row, path_mode
from keeps.errors import EmptySetError, InputFileError

JUDGED = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


@dataclass(frozen=True)
class LabelledPair:
    """A prediction, a gold answer, and whether they mean the same."""

    prediction: str
    gold: str
    same: bool


def read_labels(path: Path) -> list[LabelledPair]:
    """Rows with the columns prediction, gold and same (yes or no).

    Raises:
        InputFileError: the file is missing or of no known format.
        RecordError: a column is missing, empty or of another type.
        EmptySetError: there is no pair, or people judged all alike, by which no threshold can be set.
    """
    read = ROWS.get(path.suffix.lower())
    if path_mode(path) is None or read is None:
        raise InputFileError("there is no such table", where=str(path), mend=f"use one of {', '.join(ROWS)}")
    pairs = [LabelledPair(_text(row, "prediction"), _text(row, "gold"), _judged(row)) for row in read(path)]
    if len({pair.same for pair in pairs}) < 2:
        mend = "give pairs of both kinds, same and not the same"
        raise EmptySetError("these pairs set no threshold", where=str(path), mend=mend)
    return pairs


def _judged(row: Row) -> bool:
    given: Any = row.values.get("same")
    judged = given if isinstance(given, bool) else JUDGED.get(str(given).strip().lower())
    if judged is None:
        raise row.error(f'"{given}" is no judgement', "write yes or no", "same")
    return judged


def _text(row: Row, column: str) -> str:
    value = row.values.get(column)
    if not isinstance(value, str) or not value.strip():
        raise row.error(f"there is no text in {column}", "fill it in, or take the row out", column)
    return value.strip()
