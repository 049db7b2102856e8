"""``keeps ground --card``: cards as users name them, opened over one base, and what is refused before that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from card_stubs import hub, numbered_card
from grounding_stubs import ScriptedChat, WordRetriever

from keeps.adapt.lora import LoRA
from keeps.cli.main import main
from keeps.contracts import Run
from keeps.data.records import Passage, RecordSet
from keeps.errors import KeepsError, SettingsError
from keeps.ground.cards import CardLabel
from keeps.jobs.grounding import ground
from keeps.jobs.grounding_cards import check_cards, open_cards, parse_card
from keeps.ledger.workspace import Workspace
from keeps.models import LanguageModel
from keeps.models.remote_completion import RemoteModel

QUIET: dict[str, Any] = {"filters": "none", "card_tokens": 6, "documents": 2}


@pytest.fixture(scope="module")
def made(tiny_llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, folder = LanguageModel.load(tiny_llama_folder), tmp_path_factory.mktemp("made") / "run"
    folder.mkdir()
    learn = RecordSet("law", (Passage("law", "Courts hear cases."),))
    LoRA(LoRA.Settings(steps=3, learning_rate=0.05))(model, learn, run=Run(folder))
    return folder


@pytest.fixture
def run_folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "law-run"))


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def test_a_card_is_a_name_a_line_and_where_its_model_is(run_folder: Path, space: Workspace) -> None:
    found = parse_card(f"law: courts and judges={run_folder}", space)
    assert found.label == CardLabel("law", "courts and judges")
    assert found.named.change is not None
    served = parse_card("med=openai:http://localhost:1/v1?a=b#m", space)
    assert (served.label.name, served.named.model) == ("med", "openai:http://localhost:1/v1?a=b#m")


def test_what_the_label_on_disk_says_counts_where_the_text_says_nothing(run_folder: Path, space: Workspace) -> None:
    stored = CardLabel("law", "courts", licence="MIT")
    stored.write(run_folder)
    assert parse_card(str(run_folder), space).label == stored
    assert parse_card(f"courts={run_folder}", space).label == CardLabel("courts", "courts", licence="MIT")
    assert parse_card(f"law: judges={run_folder}", space).label.description == "judges"


@pytest.mark.parametrize("text", ["law", "=x", "law=", ": line=x", "law: <b>=x", ""])
def test_what_is_no_card_is_refused_with_its_form(text: str, space: Workspace) -> None:
    with pytest.raises(SettingsError, match="card"):
        parse_card(text, space)


def test_names_are_given_once_and_damage_is_seen_before_a_model_is_loaded(run_folder: Path, space: Workspace) -> None:
    with pytest.raises(SettingsError, match="same name"):
        check_cards([f"law={run_folder}", f"Law={run_folder}"], space)
    with pytest.raises(SettingsError, match="no name"):
        check_cards([str(run_folder)], space)
    (run_folder / "change.json").write_text("{")
    with pytest.raises(KeepsError, match=r"change\.json"):
        check_cards([f"law={run_folder}"], space)


def test_cards_of_the_answering_model_share_its_weights_and_others_get_their_own_base(
    run_folder: Path, tiny_llama_folder: Path, space: Workspace
) -> None:
    cards = check_cards(
        [f"law={run_folder}", f"whole={tiny_llama_folder}", "far=openai:http://localhost:1/v1#m"], space
    )
    model = LanguageModel.load(tiny_llama_folder)
    shared = open_cards(cards, model, None)
    assert shared.base is model
    assert isinstance(shared.cards["whole"].model, LanguageModel)
    assert isinstance(shared.cards["far"].model, RemoteModel)
    apart = open_cards(cards[:1], ScriptedChat([]), None)
    assert isinstance(apart.base, LanguageModel)
    assert apart.base is not model
    assert apart.base.fingerprint == model.fingerprint


def test_a_run_answers_as_a_card_and_its_words_are_in_the_prompt_and_the_trace(
    run_folder: Path, tmp_path: Path
) -> None:
    chat = ScriptedChat(lambda text: "an answer [1]")
    outcome = ground("Courts", cards=[f"law: courts={run_folder}"], method="knowledge_cards", model=chat,
                     settings=QUIET, workspace=tmp_path / "runs", out=tmp_path / "out.jsonl")  # fmt: skip
    knowledge = outcome.answer.trace["knowledge"]
    assert [entry["card"] for entry in knowledge] == ["law"] * 2
    assert all(entry["text"].replace("<", "‹").replace(">", "›") in chat.asked[0] for entry in knowledge)
    (row,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert row["trace"]["knowledge"] == knowledge
    assert outcome.answer.citations[0].startswith("law#")


def test_methods_with_documents_and_with_cards_are_compared_and_support_is_graded(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"question": "What is the law fact about?", "answer": "it"}) + "\n")
    outcome = ground(str(path), WordRetriever(["The law fact is about it."]), cards=hub(numbered_card("law")),
                     method=["rag", "knowledge_cards:filters=none"], model=ScriptedChat(lambda _: "about it [1]"),
                     from_file=True)  # fmt: skip
    assert [line.support.value for line in outcome.lines] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "rag"], "no method asks the cards"),
        (["--method", "knowledge_cards", "--graph", "x.tsv", "--docs", "."], "--docs and --graph"),
        (["--method", "knowledge_cards", "--method", "rag"], "rag reads documents, not cards"),
        (["--method", "knowledge_cards", "--filters", "relevanse"], 'did you mean "relevance"'),
        (["--method", "knowledge_cards", "--card", "law=other"], "same name"),
        (["--method", "knowledge_cards", "--card", "nothing"], "is no card"),
    ],
)
def test_the_command_says_in_one_paragraph_what_is_wrong(
    more: list[str], message: str, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ground", "q", "--card", f"law={run_folder}", *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_cards_are_missed_by_the_command_where_there_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ground", "q", "--docs", "tests", "--method", "knowledge_cards"]) == 2
    assert "knowledge_cards reads cards, not documents" in capsys.readouterr().err
