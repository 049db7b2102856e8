"""Figures, tables and pages of rows: intervals, paired tests, and text that is only text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from keeps.contracts import Row
from keeps.errors import StorageError
from keeps.numerics.statistics import mcnemar_exact, wilson
from keeps.probe import ModelRows
from keeps.probe.facts import Facts
from keeps.probe.findings import difference_table, mean, rates, share
from keeps.probe.page import write_page


def rows(right: str, group: str = "capital") -> list[Row]:
    return [
        Row(f"{group}{n}", group, "The capital is", "Oslo", "Rome", mark == "+", float(mark == "+"), -1.5)
        for n, mark in enumerate(right)
    ]


def test_a_share_has_its_wilson_interval_and_an_empty_one_has_no_value() -> None:
    measure, expected = share("accuracy", "g", [True, True, False]), wilson(2, 3)
    assert (measure.value, measure.low, measure.high, measure.n) == (2 / 3, expected.low, expected.high, 3)
    nothing = share("accuracy", "g", [])
    assert (nothing.value, nothing.n, bool(nothing.note)) == (None, 0, True)
    assert mean("loss", "g", [], unit="nats").value is None


def test_rates_pool_the_groups_and_leave_text_apart() -> None:
    text = Row("t", "text", "A text", "", "", False, -2.0, -20.0, "text", {"tokens": 10})
    found = rates([ModelRows("m", [*rows("++-"), *rows("-", "symbol"), text])])
    values = {(item.group, item.metric): item.value for item in found.measures}
    assert values["all", "accuracy"] == 0.5
    assert values["capital", "answer.logprob"] == -1.5
    assert values["text", "text.loss"] == 2.0


def test_differences_are_paired_by_question_and_corrected_for_all_lines() -> None:
    one = [*rows("++++++++++"), *rows("----------", "symbol")]
    other = [*rows("----------"), *rows("+---------", "symbol")]
    table = difference_table([ModelRows("one", one), ModelRows("other", list(reversed(other)))])
    assert table is not None
    lines = {line[0]: line for line in table.rows}
    assert lines["capital"][2:5] == ("10", "0", "10")
    assert float(lines["capital"][-1]) == pytest.approx(2 * mcnemar_exact(0, 10), rel=0.05)
    assert lines["symbol"][-1] == "1"
    assert difference_table([ModelRows("one", one)]) is None


def test_the_page_is_whole_and_text_of_models_stays_text(tmp_path: Path) -> None:
    system = Facts(Facts.Settings())
    hostile = [replace(row, group="a|b <script>") for row in rows("+-")]
    asked = [ModelRows("m<b>|\nx", hostile)]
    files = write_page(tmp_path / "page", system, asked, system.measure(asked))
    assert sorted(path.name for path in files) == ["README.md", "measures.jsonl", "picture.png", "rows.jsonl"]
    page = (tmp_path / "page" / "README.md").read_text()
    assert "<script>" not in page
    assert "a\\|b &lt;script>" in page
    stored = [json.loads(line) for line in (tmp_path / "page" / "rows.jsonl").read_text().splitlines()]
    assert [entry["id"] for entry in stored] == ["capital0", "capital1"]
    with pytest.raises(StorageError, match="exists"):
        write_page(tmp_path / "page", system, asked, system.measure(asked))


def test_a_page_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keeps.probe.page.page_text", lambda *_, **__: 1 / 0)
    asked = [ModelRows("m", rows("+-"))]
    with pytest.raises(ZeroDivisionError):
        write_page(tmp_path / "page", Facts(Facts.Settings()), asked, rates(asked))
    assert list(tmp_path.iterdir()) == []
