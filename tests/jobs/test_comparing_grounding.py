"""``keeps compare --ground``: figures that add up, files that are whole, nothing asked twice."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from completion_server import Server
from running_servers import running

from keeps.cli.main import main
from keeps.errors import SettingsError, StorageError
from keeps.jobs.comparing_grounding import compare_grounding
from keeps.jobs.grounding import ground
from keeps.ledger.workspace import Workspace

TEXTS = {"a.md": "Veltria was founded by Anna Korvel.", "b.md": "In Dorvia the server said this."}
ROWS = [{"question": "Who founded Veltria?", "answer": "Anna Korvel"}, {"question": "Who spoke?", "answer": "server"}]
METHODS = "rag:k=1,rag:k=2"
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def server() -> Iterator[Server]:
    with running(Server("chat")) as started:  # says the same to everything: "the server said this"
        yield started


@pytest.fixture
def given(tmp_path: Path, server: Server) -> dict[str, Any]:
    (tmp_path / "docs").mkdir()
    for name, text in TEXTS.items():
        (tmp_path / "docs" / name).write_text(text)
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    about: dict[str, Any] = {"model": server.spec, "retriever": "lexical", "workspace": tmp_path / "runs"}
    return {"questions": str(tmp_path / "questions.jsonl"), "docs": tmp_path / "docs", **about}


def test_the_figures_are_those_of_the_answers_and_every_file_holds_them(given: Any, tmp_path: Path) -> None:
    outcome = compare_grounding(METHODS, **given, out=tmp_path / "out")
    assert [line.label for line in outcome.lines] == METHODS.split(",")
    assert [line.accuracy.value for line in outcome.lines] == [0.5, 0.5]  # one question in two is about the server
    assert [line.p for line in outcome.lines] == [None, 1.0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "answers.jsonl",
        "comparison.csv",
        "comparison.json",
    ]
    with (tmp_path / "out" / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], float(row["accuracy"]), float(row["calls"])) for row in rows] == [
        (line.label, line.accuracy.value, line.calls) for line in outcome.lines
    ]
    whole = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [row["result"] for row in whole["methods"]] == list(outcome.results.values())
    answers = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert [(row["method"], row["right"]) for row in answers] == [
        (line.label, item.right) for line in outcome.lines for item in line.graded
    ]


def test_what_the_ledger_holds_is_not_asked_again_and_gives_the_same_figures(given: Any, server: Server) -> None:
    first = compare_grounding(METHODS, **given)
    count = len(server.seen)
    assert {path for path, _, _ in server.seen} == {"/v1/chat/completions"}
    again = compare_grounding(METHODS, **given)
    assert len(server.seen) == count
    assert again.results == first.results
    assert [(line.accuracy, line.support, line.f1, line.calls, line.seconds) for line in again.lines] == [
        (line.accuracy, line.support, line.f1, line.calls, line.seconds) for line in first.lines
    ]
    with Workspace(given["workspace"]).ledger(read_only=True) as ledger:
        rows = ledger.rows(first.results["rag:k=1"])
        assert [(row.prompt, row.expected, row.correct) for row in rows] == [
            ("Who founded Veltria?", "Anna Korvel", False),
            ("Who spoke?", "server", True),
        ]
        assert ledger.result(first.results["rag:k=1"]).probe == "ground"


def test_other_documents_questions_settings_or_seeds_are_asked_anew(given: Any, server: Server) -> None:
    ids = set(compare_grounding("rag:k=1", **given).results.values())
    (given["docs"] / "c.md").write_text("Another document.")
    ids |= set(compare_grounding("rag:k=1", **given).results.values())
    Path(given["questions"]).write_text(json.dumps(ROWS[0]) + "\n")
    ids |= set(compare_grounding("rag:k=1", **given).results.values())
    ids |= set(compare_grounding("rag:k=1:max_new_tokens=9", **given).results.values())
    count = len(server.seen)
    ids |= set(compare_grounding("rag:k=1", **given, seed=1).results.values())
    assert len(ids) == 5
    assert len(server.seen) > count


def test_nothing_is_recorded_unless_it_is_asked_for(given: Any) -> None:
    questions = given.pop("questions")
    assert ground(questions, from_file=True, **given).results == {}
    assert not Path(given["workspace"]).exists()


def test_a_trace_that_is_watched_is_made_anew(given: Any, server: Server) -> None:
    questions = given.pop("questions")
    first = ground(questions, from_file=True, record=True, **given)
    count, steps = len(server.seen), []
    again = ground(questions, from_file=True, record=True, watch=lambda *step: steps.append(step), **given)
    assert len(server.seen) == 2 * count
    assert steps
    assert again.results == first.results


def test_a_folder_that_is_there_and_no_method_are_refused_before_anything_is_asked(
    given: Any, server: Server, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match="exists already"):
        compare_grounding(METHODS, **given, out=tmp_path)
    with pytest.raises(SettingsError, match="no method is named"):
        compare_grounding(" , ", **given)
    with pytest.raises(SettingsError, match="named twice"):
        compare_grounding("rag,rag", **given)
    assert server.seen == []


def test_the_command_prints_the_table_and_json(given: Any, capsys: Capture, tmp_path: Path) -> None:
    words = ["--questions", given["questions"], "--docs", str(given["docs"]), "--model", given["model"], "-q"]
    argv = ["compare", "--ground", METHODS, *words, "--retriever", "lexical", "--workspace", str(tmp_path / "runs")]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("rag:k=1", "right (%)", "support (%)", "calls", "tokens", "seconds"))
    assert (tmp_path / "out" / "comparison.json").exists()
    assert main([*argv, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in document["methods"]] == METHODS.split(",")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--ground", "rag"], "name what is asked"),
        (["--ground", "rag", "--questions", "q.jsonl"], "name what is asked"),
        (["--ground", "rag", "--questions", "q", "--docs", "d", "--learn", "x"], "--learn does nothing with --ground"),
        (["--ground", "rag", "--questions", "q", "--docs", "d", "--seeds", "2"], "--seeds does nothing with --ground"),
        (["--questions", "q.jsonl"], "--questions does nothing without --ground"),
        (["--limit", "3"], "--limit does nothing without --ground"),
        (["--seed", "3"], "--seed does nothing without --ground"),
    ],
)
def test_options_that_would_do_nothing_are_refused(argv: list[str], message: str, capsys: Capture) -> None:
    assert main(["compare", *argv]) == 2
    assert message in capsys.readouterr().err
