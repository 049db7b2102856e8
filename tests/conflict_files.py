"""A few questions as FaithfulRAG's sets are published: files with the true answer in the passage, and with another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keeps.claims.conflicting_passages import FAITHEVAL, MUSIQUE, SQUAD


def row(number: int, answer: str, context: str, **other: Any) -> dict[str, Any]:
    choices = [f" Oslo{number} ", f"Lima{number}", f" Rome{number}", " Cairo "]
    base = {"id": f"q{number}", "question": f"Where is tower {number}?", "choices": choices}
    return {**base, "answer": answer, "context": context, **other}


def write(folder: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))


def good(number: int, **other: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    true, planted = (f"It is old. Tower {number} is in {town}{number}. It is high." for town in ("Lima", "Oslo"))
    return row(number, f"Lima{number}", true, **other), row(number, f" Oslo{number} ", planted, **other)


def published_sets(folder: Path) -> Path:
    """Six questions of each set."""
    golden, negative = zip(*(good(number) for number in range(6)), strict=True)
    for files in (SQUAD, MUSIQUE):
        write(folder, files[0], golden)
        write(folder, files[1], negative)
    write(folder, FAITHEVAL, [row(n, f"Rome{n}", f"Tower {n} is in Rome{n}.") for n in range(6)])
    return folder
