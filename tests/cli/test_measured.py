"""Tables of measured figures in the pages: from the evidence and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from keeps.cli import measured
from keeps.cli.evidence import read_evidence
from keeps.cli.measured import LAYOUTS, PLACE, measured_table, with_measured, written

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("card", LAYOUTS)
def test_every_row_of_the_evidence_stands_in_the_table_with_its_own_figures(card: str) -> None:
    found = read_evidence(card)
    assert found is not None
    rows = found["tables"][LAYOUTS[card].table]
    lines = {
        line.split("|")[1].strip(" `"): line for line in measured_table(card).splitlines() if line.startswith("| `")
    }
    assert list(lines) == list(rows)
    column = LAYOUTS[card].columns[1]
    for name, row in rows.items():
        assert f"| {written(row.get(column.key), column.kind)} |" in lines[name]


def test_pages_ask_for_tables_that_there_are() -> None:
    asked = [card for page in DOCS.rglob("*.md") for card in PLACE.findall(page.read_text(encoding="utf-8"))]
    assert set(asked) == set(LAYOUTS)


def test_a_place_is_filled_and_the_rest_left_alone() -> None:
    text = with_measured("Before\n\n<!-- measured: knowedit -->\n\nAfter <!-- errors -->")
    assert text.startswith("Before\n\n| Method |")
    assert text.endswith("After <!-- errors -->")


def test_what_was_not_measured_says_how_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "read_evidence", lambda card: None)
    assert measured_table("knowedit") == "Not measured yet: `keeps reproduce knowedit`."


def test_missing_figures_are_empty_and_shares_are_percent() -> None:
    assert written(None, "share") == ""
    assert written(0, "share") == "0"
    assert written({"value": 0.5, "low": None, "high": None}, "share") == "50"
    assert written({"value": 4.594, "low": 4.4, "high": 4.7}, "number") == "4.59 (4.40 to 4.70)"
