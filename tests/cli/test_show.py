"""Diffs, comparisons and probe results as text."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from keeps.cli.show import one_line, show_comparison, show_diff, show_findings
from keeps.cli.terminal import Terminal, plain, terminal
from keeps.contracts import Row
from keeps.ledger import ComparedRun, KnowledgeDiff, RunRecord, compare_rows, compare_runs
from keeps.probe import ModelRows
from keeps.probe.findings import rates


def row(identity: str, group: str, correct: bool, answer: str, logprob: float = -1.0) -> Row:
    return Row(identity, group, f"The capital of {identity} is", "Oslo", answer, correct, float(correct), logprob)


BEFORE = [
    row("a", "learn: capital", False, "Rome"),
    row("b", "learn: capital", False, "Riga\nis [bold]big[/bold]"),
    row("c", "keep: symbol", True, "Oslo"),
    row("d", "keep: symbol", True, "Oslo"),
    Row("t", "text: held-out", "A text", "", "", False, -2.0, -20.0, "text", {"tokens": 10}),
]
AFTER = [
    replace(BEFORE[0], answer="Oslo", correct=True, logprob=-0.1),
    replace(BEFORE[1], logprob=-0.5),
    replace(BEFORE[2], answer="Bergen", correct=False),
    BEFORE[3],
    replace(BEFORE[4], logprob=-21.0),
]


@pytest.fixture
def diff() -> KnowledgeDiff:
    cost = {"train_seconds": 61.2, "trained_parameters": 4_884_480}
    return compare_rows(BEFORE, AFTER, before_name="base", after_name="run-1", cost=cost)


def shown(write: object) -> str:
    stream = io.StringIO()
    write(Console(file=stream, width=200))  # type: ignore[operator]
    return stream.getvalue()


def test_a_diff_shows_groups_pooled_lines_text_and_cost(diff: KnowledgeDiff) -> None:
    text = shown(lambda console: show_diff(console, diff))
    lines = {line.split("  ")[0]: line.split() for line in text.splitlines() if line}
    assert lines["learn: capital"][2:7] == ["2", "1", "0", "0", "1"]
    assert lines["keep: symbol"][2:7] == ["2", "0", "1", "1", "0"]
    assert "base -> run-1" in text
    assert "text: held-out" in text
    assert "cost: " in text
    assert "Bergen" not in text


def test_items_show_the_flipped_facts_with_both_answers_on_one_line(diff: KnowledgeDiff) -> None:
    text = shown(lambda console: show_diff(console, diff, items=True))
    assert "1 lost" in text
    assert 'before "Oslo", after "Bergen"' in text
    assert 'before "Rome", after "Oslo"' in text
    assert "Riga" not in text  # still missing: not flipped


def test_the_models_own_markup_and_line_breaks_stay_text() -> None:
    flipped = compare_rows(BEFORE[1:2], [replace(BEFORE[1], answer="Oslo", correct=True)])
    text = shown(lambda console: show_diff(console, flipped, items=True))
    assert 'before "Riga is [bold]big[/bold]", after "Oslo"' in text
    assert one_line("a\n b\t") == "a b"


def test_a_probe_result_is_one_line_a_group() -> None:
    findings = rates([ModelRows("my model", BEFORE)])
    lines = shown(lambda console: show_findings(console, findings)).splitlines()
    found = {line.split("  ")[0]: line.split() for line in lines if line}
    assert found["keep: symbol"][2:4] == ["2", "100"]
    assert found["learn: capital"][2:4] == ["2", "0"]
    assert "2.00" in found["text: held-out"]  # 20 nats over 10 tokens


def test_a_comparison_is_one_line_a_method(diff: KnowledgeDiff) -> None:
    runs = [
        ComparedRun(RunRecord(name, "adapt", name, "m", "f", learn="x", keep="y"), diff) for name in ("lora", "corda")
    ]
    text = shown(lambda console: show_comparison(console, compare_runs(runs), Path("out")))
    assert {"lora", "corda"} <= {line.split()[0] for line in text.splitlines() if line}
    assert "out" in text


def test_json_is_the_diff_itself(diff: KnowledgeDiff, capsys: pytest.CaptureFixture[str]) -> None:
    with terminal(json=True) as out:
        print("noise")  # noqa: T201
        out.emit(diff, lambda console: console.print("never"))
    output = capsys.readouterr()
    assert KnowledgeDiff.from_mapping(json.loads(output.out)) == diff
    assert "noise" in output.err


def test_numbers_that_json_does_not_know_become_null() -> None:
    assert plain({"a": float("inf"), "b": (1, Path("x")), 3: {2.5}}) == {"a": None, "b": [1, "x"], "3": [2.5]}


def test_in_a_pipe_tables_are_wide_and_plain(capsys: pytest.CaptureFixture[str], diff: KnowledgeDiff) -> None:
    Terminal().emit(diff, lambda console: show_diff(console, diff))
    output = capsys.readouterr().out
    assert "\x1b[" not in output
    assert any(len(line) > 80 for line in output.splitlines())
