"""``keeps serve`` and ``keeps compare --ground`` from cards, tables and pairs, as ``keeps ground`` answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from card_stubs import hub, numbered_card
from grounding_stubs import ScriptedChat, WordRetriever

from keeps.cli.main import main
from keeps.data.pairs import QA
from keeps.errors import SettingsError
from keeps.ground.qamat import QAMAT
from keeps.jobs.comparing_grounding import compare_grounding
from keeps.jobs.grounding import ground
from keeps.jobs.serving import Address, serving

PAIRS = [QA("Who founded Veltria?", "Anna Korvel", "founder"), QA("Where is Dorvia?", "in Veltria", "place")]
QUESTION = "Who founded Veltria?"


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(vars(pair)) + "\n" for pair in PAIRS))
    return path


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"question": QUESTION, "answer": "Anna Korvel"}) + "\n")
    return path


def say(address: Address) -> Any:
    client = openai.OpenAI(base_url=address.base_url, api_key="none", max_retries=0)
    asked: Any = [{"role": "user", "content": QUESTION}]
    return client.chat.completions.create(model=address.model, messages=asked).choices[0]


def test_pairs_are_served_by_the_method_that_reads_them(pairs: Path) -> None:
    chat = ScriptedChat(lambda text: "Anna Korvel" if "Anna Korvel" in text else "who knows")
    with serving(chat, memory=pairs, settings={"k": 1}) as address:
        assert address.model == "qa_memory+ScriptedChat"
        found = say(address)
    assert found.message.content == "Anna Korvel"
    assert [cited["id"] for cited in found.model_extra["citations"]] == ["founder"]


def test_a_trained_reader_is_served_without_another_model(tmp_path: Path) -> None:
    trained = tmp_path / "trained"
    QAMAT.untrained(PAIRS, width=16, heads=2, vocabulary=400).save(trained)
    settings = {"reader": "encdec", "k": 2, "max_new_tokens": 3}
    with serving("no such model", memory=trained, settings=settings) as address:
        assert address.model == "qa_memory"
        served = say(address).message.content
    assert served == ground(QUESTION, memory=trained, model="no such model", settings=settings).answer.text


def test_cards_are_served_and_what_they_say_is_cited() -> None:
    chat = ScriptedChat(lambda text: "the law fact [1]" if "law fact" in text else "who knows")
    with serving(chat, cards=hub(numbered_card("law")), settings={"filters": "none"}) as address:
        found = say(address)
    assert found.message.content == "the law fact [1]"
    assert found.model_extra["citations"][0]["id"].startswith("law#")


def test_sources_that_exclude_each_other_are_refused_before_anything_listens(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="a memory and another source"), serving("none", tmp_path, memory=pairs):
        pass
    with pytest.raises(SettingsError, match="no method asks the cards"), serving("none", cards=["law=x"], method="rag"):
        pass


def test_documents_and_cards_are_compared_on_one_question_set(questions: Path, tmp_path: Path) -> None:
    outcome = compare_grounding(
        "rag,knowledge_cards:filters=none",
        str(questions),
        WordRetriever(["Veltria was founded by Anna Korvel."]),
        cards=hub(numbered_card("law")),
        model=ScriptedChat(lambda text: "Anna Korvel [1]" if "Anna Korvel" in text else "the law fact [1]"),
        workspace=tmp_path / "runs",
        out=tmp_path / "out",
    )
    assert [line.accuracy.value for line in outcome.lines] == [1.0, 0.0]
    assert outcome.results == {}  # what a card says has no fingerprint
    assert not (tmp_path / "runs").exists()
    rows = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows] == ["rag", "knowledge_cards:filters=none"]


def test_the_command_compares_ways_to_read_one_memory(
    pairs: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "--ground", "qa_memory:k=1,qa_memory:k=2", "--questions", str(questions), "--json", "--quiet"]
    assert main([*words, "--memory", str(pairs), "--workspace", str(tmp_path / "runs")]) == 0
    rows = json.loads(capsys.readouterr().out)["methods"]
    assert [(row["method"], row["accuracy"]) for row in rows] == [("qa_memory:k=1", 1.0), ("qa_memory:k=2", 1.0)]
    assert main(["compare", "--memory", str(pairs)]) == 2
    assert "--memory does nothing without --ground" in capsys.readouterr().err
