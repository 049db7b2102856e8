"""Answers from a memory of pairs through the same job and command as those from documents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keeps.cli.main import main
from keeps.data.pairs import QA
from keeps.errors import EmptySetError, InputFileError, SettingsError, StorageError
from keeps.ground.qamat import QAMAT
from keeps.jobs.grounding import ground
from keeps.models import LanguageModel
from keeps.retrieval.qa_memory import QAMemory

PAIRS = [
    QA("What is the capital of Veltria?", "Zarenholm", "capital"),
    QA("Who founded Veltria?", "Anna Korvel", "founder"),
    QA("Which river flows through Zarenholm?", "the Ilda", "river"),
]
QUESTION = "Name the founder of Veltria."


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [{"id": pair.id, "question": pair.question, "answer": pair.answer} for pair in PAIRS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_of_pairs_answers_and_an_edited_row_answers_otherwise(pairs: Path, smollm2: LanguageModel) -> None:
    settings = {"k": 2, "max_new_tokens": 8}
    outcome = ground(QUESTION, memory=pairs, method="qa_memory", model=smollm2, settings=settings)
    assert "Anna Korvel" in outcome.answer.text
    assert outcome.answer.citations == ("founder",)
    pairs.write_text(pairs.read_text().replace("Anna Korvel", "Bela Tors"))
    outcome = ground(QUESTION, memory=pairs, method="qa_memory", model=smollm2, settings=settings)
    assert "Bela Tors" in outcome.answer.text


def test_the_folder_of_a_memory_is_opened_and_questions_are_graded_by_what_they_cite(
    pairs: Path, tmp_path: Path, smollm2: LanguageModel
) -> None:
    memory = QAMemory()
    memory.add(PAIRS)
    memory.save(tmp_path / "memory")
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"prompt": QUESTION, "answer": "Anna Korvel"}) + "\n")
    outcome = ground(
        str(asked), memory=tmp_path / "memory", method="qa_memory", model=smollm2, from_file=True, settings={"k": 2}
    )
    (line,) = outcome.lines
    assert (line.graded[0].right, line.graded[0].supported) == (True, True)


def test_a_trained_reader_answers_from_its_folder_and_no_other_folder_has_one(
    pairs: Path, tmp_path: Path, tiny_llama: LanguageModel
) -> None:
    QAMAT.untrained(PAIRS, width=16, heads=2, vocabulary=400).save(tmp_path / "trained")
    settings = {"reader": "encdec", "k": 2, "max_new_tokens": 3}
    trained = tmp_path / "trained"
    outcome = ground(QUESTION, memory=trained, method="qa_memory", model="no such model", settings=settings)
    assert len(outcome.answer.trace["evidence"][0]) == 2
    with pytest.raises(SettingsError, match="without a trained reader"):
        ground(QUESTION, memory=pairs, method="qa_memory", model=tiny_llama, settings=settings)


def test_a_memory_stands_alone_and_only_methods_that_read_pairs_take_it(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="another source"):
        ground(QUESTION, tmp_path, memory=pairs, method="qa_memory", model="no such model")
    with pytest.raises(SettingsError, match="rag reads documents, not pairs"):
        ground(QUESTION, memory=pairs, method="rag", model="no such model")
    with pytest.raises(SettingsError, match="qa_memory reads pairs, not documents"):
        ground(QUESTION, tmp_path, method="qa_memory", model="no such model")


def test_what_is_no_memory_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputFileError, match=r"none\.jsonl"):
        ground(QUESTION, memory=tmp_path / "none.jsonl", method="qa_memory", model="no such model")
    with pytest.raises(EmptySetError):
        ground(QUESTION, memory="text#2", method="qa_memory", model="no such model")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(StorageError):
        ground(QUESTION, memory=tmp_path, method="qa_memory", model="no such model")
    assert main(["ground", QUESTION, "--memory", "a.jsonl", "--docs", "b", "--method", "qa_memory"]) == 2
    assert "another source" in capsys.readouterr().err


def test_the_command_has_the_settings_and_answers_from_the_world(
    capsys: pytest.CaptureFixture[str], tiny_llama_folder: Path
) -> None:
    assert main(["ground", "--method", "qa_memory", "--help"]) == 0
    assert "--per-answer" in capsys.readouterr().out
    said = ["ground", "Name a capital.", "--memory", "world:capital#5", "--method", "qa_memory", "--json"]
    assert main([*said, "--reader", "encdec", "--model", str(tiny_llama_folder)]) == 2
    assert "trained reader" in capsys.readouterr().err
