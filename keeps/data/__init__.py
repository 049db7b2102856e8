"""Records, the files and packages that they come from, and how they are named."""

from __future__ import annotations

from keeps.data.readers import read_records
from keeps.data.records import Dialogue, Example, Fact, Passage, Record, RecordSet, Split, split_of
from keeps.data.select import load_records

__all__ = [
    "Dialogue",
    "Example",
    "Fact",
    "Passage",
    "Record",
    "RecordSet",
    "Split",
    "load_records",
    "read_records",
    "split_of",
]
