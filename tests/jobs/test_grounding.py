"""``keeps ground``: documents in, graded answers out, and a clear message for everything that can go wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from completion_server import Server
from grounding_stubs import ScriptedChat, WordRetriever
from pico_models import pico
from running_servers import running

from keeps.cli.main import main
from keeps.contracts import Answer, SilentProgress
from keeps.data.records import Example, RecordSet
from keeps.errors import (
    EmptySetError,
    InputFileError,
    KeepsError,
    RecordError,
    SettingsError,
    StorageError,
    UnknownNameError,
)
from keeps.jobs.grounding import ground
from keeps.jobs.grounding_measures import graded, measures_table, method_line, stands_in
from keeps.jobs.grounding_sources import Remembering, open_documents
from keeps.jobs.grounding_variants import parse_variant
from keeps.models import LanguageModel
from keeps.retrieval.corpus import Corpus

TEXTS = {"veltria.md": "# Veltria\n\nVeltria was founded by Anna Korvel.", "deep/dorvia.txt": "Quellmar is in Dorvia."}
QUESTION = "Who founded Veltria?"
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    for name, text in TEXTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    rows = [{"question": QUESTION, "answer": "Anna Korvel"}, {"question": "Where is Quellmar?", "answer": "Dorvia"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def server() -> Iterator[Server]:
    with running(Server("chat")) as started:
        yield started


# --- documents ---------------------------------------------------------------------------------


class Told(SilentProgress):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def test_a_folder_is_indexed_and_what_cannot_be_read_is_named(docs: Path, tmp_path: Path) -> None:
    (docs / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "secret.txt").write_text("secret words")
    (docs / "link.txt").symlink_to(tmp_path / "secret.txt")
    told = Told()
    retriever = open_documents(docs, "lexical", progress=told)
    assert [hit.document for hit in retriever.search("Veltria founded", 1)] == ["veltria.md"]
    assert retriever.search("secret words", 1) == []
    (message,) = told.messages
    assert "2 files are not read" in message
    assert "picture.png" in message
    assert "link.txt" in message


def test_an_index_folder_is_opened_and_not_read_as_texts(docs: Path, tmp_path: Path) -> None:
    corpus = Corpus.create(tmp_path / "index", encoder=None)
    corpus.add(["Veltria was founded by Anna Korvel."], ids=["veltria"])
    corpus.save()
    found = open_documents(tmp_path / "index", "lexical").search(QUESTION, 1)
    assert found[0].document == "veltria"


# --- answering ----------------------------------------------------------------------------------


def test_one_question_is_answered_with_its_source_and_its_trace(docs: Path) -> None:
    chat = ScriptedChat(["Anna Korvel [1]."])
    outcome = ground(QUESTION, docs, model=chat, retriever="lexical")
    assert outcome.answer.text == "Anna Korvel [1]."
    (cited,) = outcome.answer.citations
    assert cited.startswith("veltria.md#")
    text = (docs / "veltria.md").read_text()
    start, end = outcome.answer.trace["passages"][0]["span"]
    assert text[start:end] in chat.asked[0].replace("‹", "<")
    assert outcome.lines == ()
    assert outcome.table is None


def test_methods_are_compared_on_one_question_set(docs: Path, questions: Path, tmp_path: Path) -> None:
    def say(text: str) -> str:
        return "Anna Korvel" if QUESTION in text else "no idea"

    out = tmp_path / "answers.jsonl"
    methods = ["rag:cite=words", "rag:cite=none:k=1", "adaptive_note:max_rounds=0"]
    outcome = ground(str(questions), docs, method=methods, model=ScriptedChat(say), retriever="lexical",
                     from_file=True, out=out)  # fmt: skip
    assert outcome.methods == tuple(methods)
    first, second, third = outcome.lines
    assert [line.accuracy.value for line in outcome.lines] == [0.5, 0.5, 0.5]
    assert (first.support.value, second.support.value) == (0.5, 0.0)
    assert (first.calls, third.calls, first.p, second.p) == (1, 2, None, 1.0)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["method"], row["id"] != "") for row in rows] == [(m, True) for m in methods for _ in range(2)]
    assert rows[0]["trace"]["calls"] == 1
    assert outcome.table is not None
    assert outcome.table.columns[:4] == ("method", "n", "right (%)", "support (%)")
    with pytest.raises(StorageError, match="exists already"):
        ground(QUESTION, docs, model=ScriptedChat([]), out=out)


def test_every_step_is_heard_with_its_method_and_the_place_of_its_question(docs: Path, questions: Path) -> None:
    heard: list[tuple[str, int, str]] = []
    ground(str(questions), docs, model=ScriptedChat(lambda _: "x"), retriever="lexical", from_file=True,
           watch=lambda label, place, step: heard.append((label, place, step["step"])))  # fmt: skip
    assert heard == [("rag", 0, "search"), ("rag", 1, "search"), ("rag", 0, "answer"), ("rag", 1, "answer")]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "ragg"}, UnknownNameError, 'did you mean "rag"'),
        ({"method": "rag:kk=3"}, UnknownNameError, "unknown setting"),
        ({"method": "rag:k"}, SettingsError, "no setting"),
        ({"method": "rag", "settings": {"k": 0}}, SettingsError, "k is 0"),
        ({"method": ["rag", "rag"]}, SettingsError, "named twice"),
        ({"method": []}, SettingsError, "no method"),
        ({"method": ["rag", "faithful_rag"], "settings": {"modee": "x"}}, UnknownNameError, "none of the methods"),
        ({"retriever": "magic"}, SettingsError, "magic"),
        ({"limit": 0}, SettingsError, "limit"),
        ({"docs": "nowhere"}, InputFileError, "no such file"),
        ({"questions": " "}, RecordError, "empty"),
        ({"questions": []}, RecordError, "no question"),
        ({"method": "ck_plug", "model": "openai:http://127.0.0.1:9/v1#m"}, SettingsError, "weights are on this"),
    ],
)
def test_bad_input_is_refused_before_anything_is_loaded(
    docs: Path, options: dict[str, Any], error: type[KeepsError], message: str
) -> None:
    given: dict[str, Any] = {"questions": QUESTION, "docs": docs, "model": "no such model", **options}
    with pytest.raises(error, match=message):
        ground(given.pop("questions"), given.pop("docs"), **given)


def test_settings_for_several_methods_go_to_those_that_have_them(docs: Path) -> None:
    outcome = ground(QUESTION, docs, method=["rag", "adaptive_note"], settings={"max_rounds": 0, "k": 1},
                     model=ScriptedChat(lambda _: "x"), retriever="lexical")  # fmt: skip
    assert outcome.answers["adaptive_note"][0].trace["calls"] == 2
    assert len(outcome.answers["rag"][0].trace["passages"]) == 1
    assert parse_variant("rag: k = 3")[2].to_mapping()["k"] == 3


def test_empty_folders_and_retrievers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank").mkdir()
    (tmp_path / "blank" / "a.txt").write_text("  \n")
    for folder, message in (("empty", "the folder is empty"), ("blank", "nothing to index")):
        with pytest.raises(EmptySetError, match=message):
            ground(QUESTION, tmp_path / folder, model=ScriptedChat([]), retriever="lexical")
    with pytest.raises(EmptySetError, match="holds no passage"):
        ground(QUESTION, WordRetriever([]), model=ScriptedChat([]))


def test_answers_of_methods_that_decode_by_themselves_are_graded_too(docs: Path, smollm2: LanguageModel) -> None:
    model = pico("llama", smollm2.tokenizer)
    asked = RecordSet("two", (Example("1", QUESTION, "Korvel"), Example("2", "Where is Quellmar?", "Dorvia")))
    outcome = ground(asked, docs, method="cad:k=1:max_new_tokens=3", model=model, retriever="lexical")
    (line,) = outcome.lines
    assert line.support.value == 1.0
    assert outcome.table is not None
    assert len(outcome.table.rows) == 1


def test_the_measures_are_what_they_say() -> None:
    assert stands_in("Anna Korvel", "It was Anna Korvel, I think.")
    assert not stands_in("Oslo", "Osloer")
    answers = [Answer("Oslo it is", ("a",), {"calls": 2, "stop": "x"}), Answer("", (), {"calls": 4, "stop": "y"})]
    items = graded(["1", "2"], ["?", "?"], [("Oslo",), ("Rome",)], answers, {"a": "Oslo is big."})
    assert [(item.right, item.supported) for item in items] == [(True, True), (False, False)]
    line = method_line("m", items)
    assert (line.accuracy.value, line.support.value, line.calls, line.f1) == (0.5, 0.5, 3.0, 0.25)
    assert (line.stops, line.seconds, line.tokens) == ({"x": 1, "y": 1}, None, None)  # what nobody counted is not 0
    assert "McNemar" not in measures_table([line]).note
    remembering = Remembering(WordRetriever(["Oslo is big."]))
    remembering.search("Oslo", 1)
    assert remembering.texts == {"d0#0-12": "Oslo is big."}


# --- the command --------------------------------------------------------------------------------


def test_the_command_answers_through_a_server_and_shows_each_step(docs: Path, server: Server, capsys: Capture) -> None:
    argv = ["ground", QUESTION, "--docs", str(docs), "--retriever", "lexical", "--model", server.spec]
    assert main([*argv, "--trace"]) == 0
    output = capsys.readouterr()
    assert "the server said this" in output.out
    assert "not supported by the documents" in output.out
    assert "read [1] veltria.md#" in output.out
    assert "search: query Who founded Veltria?" in output.err
    assert main([*argv, "--json", "--k", "1"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["answers"][0]["trace"]["calls"] == 1
    assert len(document["answers"][0]["trace"]["passages"]) == 1


def test_the_command_compares_and_grades(
    docs: Path, questions: Path, server: Server, capsys: Capture, tmp_path: Path
) -> None:
    argv = ["ground", "--questions", str(questions), "--docs", str(docs), "--retriever", "lexical", "-q"]
    argv += ["--workspace", str(tmp_path / "runs")]
    methods = ["--method", "rag", "--method", "adaptive_note:max_rounds=0"]
    assert main([*argv, *methods, "--model", server.spec]) == 0
    shown = capsys.readouterr().out
    assert "adaptive_note:max_rounds=0" in shown
    assert "right (%)" in shown
    assert main([*argv, *methods, "--model", server.spec, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [line["accuracy"]["value"] for line in document["measures"]] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "name what to answer"),
        (["q", "--questions", "x.jsonl"], "name what to answer"),
        (["q"], "name the documents"),
        (["q", "--docs", "nowhere"], "no such file or folder"),
        (["q", "--docs", ".", "--method", "adaptive_note", "--k", "20"], "max_passages"),
    ],
)
def test_the_command_says_in_one_paragraph_what_is_wrong(argv: list[str], message: str, capsys: Capture) -> None:
    assert main(["ground", *argv]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_server_that_is_down_is_named_by_the_command(
    docs: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between tries
    argv = ["ground", QUESTION, "--docs", str(docs), "--retriever", "lexical"]
    assert main([*argv, "--model", "openai:http://127.0.0.1:9/v1#m"]) == 2
    assert "the server gives no reply" in capsys.readouterr().err


def test_each_method_has_its_own_options(capsys: Capture) -> None:
    assert main(["ground", "--method", "adaptive_note", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--max-rounds" in shown
    assert "Examples" in shown
