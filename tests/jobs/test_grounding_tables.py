"""Answers from tables of entities through the same job and command as those from documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from keeps.claims.hybrid_dialog_world import small_model
from keeps.cli.main import main
from keeps.contracts import SilentProgress
from keeps.data.entities import Entity, EntityBase
from keeps.errors import EmptySetError, InputFileError, SettingsError
from keeps.jobs.grounding import ground
from keeps.jobs.grounding_tables import open_tables, with_named
from keeps.models import LanguageModel
from keeps.retrieval.documents import Document

QUESTION = "what is the phone of almar ?"
OPTIONS = {"beams": 1, "max_new_tokens": 6}
ROWS = '{"name": "almar", "area": "north"}\n{"name": "belton", "area": "south"}\n'


class Noting(SilentProgress):
    """Notes messages."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return small_model(0, width=16, layers=2, heads=2)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "house.jsonl"
    path.write_text(ROWS)
    return path


def test_tables_reach_the_method_as_files_and_as_entities(table: Path, model: LanguageModel) -> None:
    outcome = ground(QUESTION, tables=str(table), method="hybrid_dialog", model=model, settings=OPTIONS)
    assert outcome.answer.trace["entity"] in ("house/almar", "house/belton")
    loaded = ground(QUESTION, tables=open_tables(table), method="hybrid_dialog", model=model, settings=OPTIONS)
    assert loaded.answer.text == outcome.answer.text
    assert loaded.answer.trace["probability"] == outcome.answer.trace["probability"]


def test_documents_beside_tables_belong_to_the_entities_that_they_name(table: Path, model: LanguageModel) -> None:
    docs = table.parent / "docs"
    docs.mkdir()
    (docs / "almar.txt").write_text("dial ph100 to speak to us .")
    (docs / "note.txt").write_text("nothing about anybody")
    progress = Noting()
    base = open_tables(table, docs, progress=progress)
    assert base is not None
    assert [document.body for document in base.by_id["house/almar"].documents] == ["dial ph100 to speak to us ."]
    assert base.by_id["house/belton"].documents == ()
    assert any("1 documents name no entity" in text for text in progress.said)
    outcome = ground(QUESTION, docs, tables=table, method="hybrid_dialog", model=model, settings=OPTIONS)
    bare = ground(QUESTION, tables=table, method="hybrid_dialog", model=model, settings=OPTIONS)
    assert outcome.answer.trace["prompt_tokens"] > bare.answer.trace["prompt_tokens"]


def test_of_names_that_contain_each_other_the_longer_one_counts() -> None:
    base = EntityBase(tuple(Entity("h", name) for name in ("Alpha", "Alpha Lodge", "Beta")))
    documents = [Document("1", "At Alpha Lodge."), Document("2", "Alpha and Beta."), Document("3", "Alphabet")]
    found, left = with_named(base, documents)
    told: dict[str, Any] = {entity.name: [document.body for document in entity.documents] for entity in found}
    assert told == {"Alpha": ["Alpha and Beta."], "Alpha Lodge": ["At Alpha Lodge."], "Beta": ["Alpha and Beta."]}
    assert left == 1


def test_graded_conversations_are_recorded_once(table: Path, model: LanguageModel, tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"prompt": QUESTION, "answer": "ph100"}) + "\n")
    place = {"workspace": tmp_path / "space", "from_file": True, "record": True}
    common: dict[str, Any] = {"tables": table, "method": "hybrid_dialog", "model": model, "settings": OPTIONS, **place}
    first, again = ground(str(asked), **common), ground(str(asked), **common)
    assert first.lines[0].graded
    assert first.results == again.results != {}
    table.write_text(ROWS.replace("north", "west"))
    assert ground(str(asked), **common).results != first.results


def test_a_method_gets_what_it_reads_or_is_refused(table: Path, tmp_path: Path, model: LanguageModel) -> None:
    with pytest.raises(SettingsError, match="no method reads the tables"):
        ground(QUESTION, tables=table, method="rag", model="no such model")
    with pytest.raises(SettingsError, match="hybrid_dialog reads tables, not documents"):
        ground(QUESTION, tmp_path, method="hybrid_dialog", model="no such model")
    with pytest.raises(InputFileError, match=r"no\.csv"):
        ground(QUESTION, tables=tmp_path / "no.csv", method="hybrid_dialog", model=model)
    with pytest.raises(SettingsError, match="cannot come from a retriever"):
        open_tables(table, object())
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmptySetError):
        open_tables(tmp_path / "empty")


def test_the_command_answers_from_tables(
    table: Path, tmp_path: Path, model: LanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    model.model.save_pretrained(folder)  # type: ignore[operator]
    model.tokenizer.save_pretrained(folder)
    words = ["ground", QUESTION, "--tables", str(table), "--method", "hybrid_dialog", "--model", str(folder)]
    options = ["--beams", "1", "--max-new-tokens", "6", "--json", "--workspace", str(tmp_path / "space")]
    assert main([*words, *options]) == 0
    (answer,) = json.loads(capsys.readouterr().out)["answers"]
    assert answer["trace"]["entity"] in ("house/almar", "house/belton")
    assert main(["ground", QUESTION, "--method", "hybrid_dialog"]) == 2
    assert "name the documents" in capsys.readouterr().err
