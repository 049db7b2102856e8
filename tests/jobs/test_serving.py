"""``keeps serve`` from documents or a run to the endpoint, and what it refuses before a model is loaded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest
from grounding_stubs import ScriptedChat
from pico_models import pico

import keeps
from keeps.cli.main import main
from keeps.errors import InputFileError, SettingsError, UnknownNameError
from keeps.jobs.grounding import ground
from keeps.jobs.serving import Address, listener, served, serving
from keeps.models import LanguageModel
from keeps.models.remote_completion import remote_model

TEXT = "Veltria was founded by Anna Korvel."
QUESTION = "Who founded Veltria?"
COUNTED = ("calls", "prompt_tokens")
ASKED: Any = [{"role": "user", "content": QUESTION}]


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "veltria.md").write_text(TEXT)
    return tmp_path / "docs"


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> LanguageModel:
    made = pico("llama", tokenizer)
    config: Any = made.model.config
    config.max_position_embeddings = 1024  # rotary positions know no end: room for passages
    return made


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was loaded before the input was checked")

    monkeypatch.setattr("keeps.models.language_model.LanguageModel.load", load)


def test_documents_are_answered_from_with_citations(docs: Path) -> None:
    chat = ScriptedChat(lambda text: "Anna Korvel [1]" if "<passage 1" in text else "who knows")
    with serving(chat, docs, method="rag:k=1", retriever="lexical") as address:
        assert address.model == "rag:k=1+ScriptedChat"
        client = openai.OpenAI(base_url=address.base_url, api_key="none", max_retries=0)
        found = client.chat.completions.create(model=address.model, messages=ASKED).choices[0]
        probed = remote_model(address.spec).answer([QUESTION])  # completions are refused, so it is asked in turns
    assert found.message.content == "Anna Korvel [1]"
    assert [answer.text for answer in probed] == ["Anna Korvel [1]"]
    (cited,) = (found.model_extra or {})["citations"]
    assert cited["document"].endswith("veltria.md")


def test_ground_answers_through_a_served_model_as_through_the_model_itself(model: LanguageModel, docs: Path) -> None:
    options: dict[str, Any] = {"method": "rag:max_new_tokens=6", "retriever": "lexical", "settings": {"k": 1}}
    here = ground(QUESTION, docs, model=model, **options).answer
    with serving(model, name="tiny") as address:
        for spec in (address.spec, address.base_url.removesuffix("/v1")):
            there = ground(QUESTION, docs, model=spec, **options).answer
            assert (there.text, there.citations) == (here.text, here.citations)
            assert [there.trace[name] for name in COUNTED] == [here.trace[name] for name in COUNTED]


def test_a_run_is_served_under_its_name_and_its_change_is_taken_out_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    events: list[str] = []

    class Stored:
        def apply(self, base: Any) -> Any:
            events.append(f"applied to {base}")
            return type("Changed", (), {"answer": lambda *_: [], "undo": lambda _: events.append("undone")})()

    class Named:
        name, change = "corda-3f", Stored()

    monkeypatch.setattr("keeps.jobs.serving.resolve", lambda *_: Named)
    monkeypatch.setattr("keeps.jobs.serving.load_base", lambda *_, **__: "the base")
    with served("corda-3f", workspace=tmp_path) as made:
        assert made.name == "corda-3f"
        assert events == ["applied to the base"]
    assert events[1:] == ["undone"]


@pytest.mark.usefixtures("no_model")
def test_what_would_do_nothing_or_be_open_to_others_is_refused_before_a_model_is_loaded(
    docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"host": "0.0.0.0"}, SettingsError, "needs an API key"),
        ({"api_key_env": "NO_SUCH_KEY"}, SettingsError, "NO_SUCH_KEY holds no key"),
        ({"method": "rag"}, SettingsError, "does nothing without documents"),
        ({"model": "openai:http://127.0.0.1:9/v1#m"}, SettingsError, "served already"),
        ({"docs": docs / "none"}, InputFileError, "no such file or folder"),
        ({"docs": docs, "retriever": "magic"}, SettingsError, "the retriever is"),
        ({"docs": docs, "method": "rga"}, UnknownNameError, "rag"),
        ({"docs": docs, "method": "kg_search"}, SettingsError, "reads graph"),
        ({"limits": {"max_tokens": 0}}, SettingsError, "max_tokens"),
        ({"limits": {"temperature": 0.001}}, SettingsError, "temperature is 0.001"),
        ({"docs": docs, "limits": {"temperature": 0}}, SettingsError, "temperature does nothing"),
    ]
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    for options, kind, message in cases:
        with pytest.raises(kind, match=message), served(**options):
            pass


def test_nothing_listens_where_it_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="needs an API key"):
        listener("0.0.0.0", 0)
    monkeypatch.setenv("SERVE_KEY", "s3cret")
    listener("0.0.0.0", 0, "SERVE_KEY").close()
    assert Address("http://127.0.0.1:1/v1", "m").spec == "openai:http://127.0.0.1:1/v1#m"


def test_missing_libraries_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(keeps.KeepsError, match=r"keeps\[serve\]"), served(object()):
        pass


@pytest.mark.usefixtures("no_model")
def test_the_command_refuses_in_one_paragraph(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--host", "0.0.0.0"]) == 2
    assert "needs an API key" in capsys.readouterr().err
    assert main(["serve", "--docs", "./none-here", "--port", "0"]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert main(["serve", "--docs", "x", "--method", "rag", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--api-key-env" in shown
    assert "--temperature" in shown
    assert "--cite" in shown


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_end(ending: int, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "keeps", "serve", "--port", "0", "--json", "--api-key-env", "SERVE_KEY"]
    environment = {**os.environ, "SERVE_KEY": "s3cret"}
    process = subprocess.Popen(argv, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        lines: list[bytes] = []
        while not lines or lines[-1].rstrip() != b"}":  # the end of the document
            lines.append(process.stdout.readline())
            assert lines[-1], process.communicate()
        found = json.loads(b"".join(lines))
        client = openai.OpenAI(base_url=found["base_url"], api_key="s3cret", max_retries=0)
        asked: Any = [{"role": "user", "content": "What is the capital of France?"}]
        reply = client.chat.completions.create(model=found["model"], messages=asked, temperature=0, max_tokens=12)
        assert reply.choices[0].message.content == "The capital of France is Paris."
        process.send_signal(ending)
        output, errors = process.communicate(timeout=60)
        assert output == b""
        assert b"Traceback" not in errors
        assert process.returncode in (0, -ending)
    finally:
        process.kill()


@pytest.mark.slow
def test_a_probe_of_the_served_model_gives_the_rows_of_the_model(smollm2: LanguageModel, tmp_path: Path) -> None:
    rows = [
        {"id": "1", "prompt": "The capital of France is", "answer": "Paris"},
        {"id": "2", "prompt": "The sky is", "answer": "blue", "choices": ["blue", "an old horse", "green"]},
        {"id": "3", "text": "The rain in Spain stays mainly in the plain."},
        {"id": "4", "prompt": "Die Hauptstadt von Österreich ist", "answer": "Wien"},
    ]
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(smollm2, name="served") as address:
        outcome = keeps.probe([address.spec, "smollm2-135m"], str(data), workspace=tmp_path / "runs")
    remote, local = (result.rows for result in outcome.results)
    for there, here in zip(remote, local, strict=True):
        assert (there.id, there.answer, there.correct, there.kind) == (here.id, here.answer, here.correct, here.kind)
        assert there.logprob == pytest.approx(here.logprob, abs=1e-4)
