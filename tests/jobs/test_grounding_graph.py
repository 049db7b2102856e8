"""Answers from a graph of triples through the same job and command as those from documents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keeps.cli.main import main
from keeps.errors import InputFileError, SettingsError
from keeps.graphs.graph_files import read_graph
from keeps.jobs.grounding import ground
from keeps.models import LanguageModel

TRIPLES = "Norway\tcapital\tOslo\nPeru\tcapital\tLima\nOslo\triver\tAkerselva\nLima\triver\tRimac\n"
QUESTION = "Which river flows through the capital of Norway?"


@pytest.fixture
def triples(tmp_path: Path) -> Path:
    path = tmp_path / "facts.tsv"
    path.write_text(TRIPLES)
    return path


def test_every_step_of_the_walk_is_an_edge_of_the_file(triples: Path, smollm2: LanguageModel) -> None:
    outcome = ground(QUESTION, graph=triples, method="kg_search", model=smollm2)
    assert outcome.answer.text
    assert outcome.answer.trace["stop"]
    assert set(outcome.answer.citations) <= {"facts.tsv"}
    loaded = ground(QUESTION, graph=read_graph(triples), method="kg_search", model=smollm2)
    assert loaded.answer.text == outcome.answer.text


def test_questions_with_answers_are_graded(triples: Path, smollm2: LanguageModel, tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"prompt": QUESTION, "answer": "Akerselva"}) + "\n")
    outcome = ground(str(asked), graph=triples, method="kg_search", model=smollm2, from_file=True)
    assert [line.graded for line in outcome.lines]


def test_a_method_gets_what_it_reads_or_is_refused(triples: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="rag reads documents, not graph"):
        ground(QUESTION, graph=triples, method="rag", model="no such model")
    with pytest.raises(SettingsError, match="kg_search reads graph, not documents"):
        ground(QUESTION, tmp_path, method="kg_search", model="no such model")
    with pytest.raises(SettingsError, match="documents and a graph are given"):
        ground(QUESTION, tmp_path, graph=triples, method="kg_search", model="no such model")
    with pytest.raises(SettingsError, match="name documents, or a graph"):
        ground(QUESTION, method="kg_search", model="no such model")


def test_a_missing_graph_is_named(tmp_path: Path, smollm2: LanguageModel, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputFileError, match=r"no\.tsv"):
        ground(QUESTION, graph=tmp_path / "no.tsv", method="kg_search", model=smollm2)
    assert main(["ground", QUESTION, "--graph", "a", "--docs", "b", "--method", "kg_search"]) == 2
    assert "--docs and --graph" in capsys.readouterr().err
