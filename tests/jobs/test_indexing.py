"""Folders become indexes and stay in step with them; the two commands say what happened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from retrieval_stubs import WordSums

from keeps.cli.main import main
from keeps.errors import EmptySetError, SettingsError, StorageError
from keeps.jobs.indexing import index, search
from keeps.retrieval import Corpus

pytest.importorskip("bm25s")


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    made = tmp_path / "documents"
    made.mkdir()
    (made / "oslo.md").write_text("# Oslo\nOslo is the capital of Norway.")
    (made / "rows.jsonl").write_text('{"id": "lima", "text": "Lima is the capital of Peru.", "n": 3}\n')
    return made


def state(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_the_same_folder_again_changes_not_one_file(documents: Path, tmp_path: Path) -> None:
    first = index(documents, tmp_path / "kb", encoder="none")
    assert (first.added, first.documents, first.written) == (2, 2, True)
    before = state(tmp_path / "kb")
    again = index(documents, tmp_path / "kb")
    assert (again.added, again.updated, again.removed, again.unchanged, again.written) == (0, 0, 0, 2, False)
    assert state(tmp_path / "kb") == before


def test_changed_new_and_missing_files_are_followed(documents: Path, tmp_path: Path) -> None:
    index(documents, tmp_path / "kb", encoder="none")
    (documents / "oslo.md").write_text("Oslo was Kristiania.")
    (documents / "rows.jsonl").unlink()
    (documents / "new.txt").write_text("Rome is warm.")
    found = index(documents, tmp_path / "kb", keep_missing=True)
    assert (found.added, found.updated, found.removed) == (1, 1, 0)
    found = index(documents, tmp_path / "kb")
    assert (found.added, found.updated, found.removed, found.unchanged) == (0, 0, 1, 2)
    assert list(Corpus.open(tmp_path / "kb")) == ["new.txt", "oslo.md"]
    assert [hit.document for hit in search(tmp_path / "kb", "kristiania").hits] == ["oslo.md"]


def test_a_file_that_became_unreadable_keeps_its_documents(documents: Path, tmp_path: Path) -> None:
    index(documents, tmp_path / "kb", encoder="none")
    (documents / "rows.jsonl").write_text("{broken\n")
    found = index(documents, tmp_path / "kb")
    assert (found.removed, found.written) == (0, False)
    assert found.skipped[0]["path"] == "rows.jsonl"
    assert list(Corpus.open(tmp_path / "kb")) == ["oslo.md", "rows.jsonl:lima"]


def test_an_emptied_folder_does_not_empty_the_index(documents: Path, tmp_path: Path) -> None:
    index(documents, tmp_path / "kb", encoder="none")
    before = state(tmp_path / "kb")
    for path in documents.iterdir():
        path.unlink()
    with pytest.raises(EmptySetError):
        index(documents, tmp_path / "kb")
    assert state(tmp_path / "kb") == before


def test_an_index_inside_its_folder_does_not_index_itself(documents: Path) -> None:
    index(documents, documents / "kb", encoder="none")
    again = index(documents, documents / "kb")
    assert (again.documents, again.written) == (2, False)


def test_other_settings_than_those_of_the_index_are_refused(documents: Path, tmp_path: Path) -> None:
    index(documents, tmp_path / "kb", encoder="none", settings={"chunk_words": 50})
    with pytest.raises(SettingsError, match="chunk_words 50"):
        index(documents, tmp_path / "kb", settings={"chunk_words": 60})
    with pytest.raises(SettingsError, match="encoder none"):
        index(documents, tmp_path / "kb", encoder="all-MiniLM-L6-v2")
    assert not index(documents, tmp_path / "kb", settings={"chunk_words": 50}).written


def test_a_folder_with_other_things_is_never_made_an_index(documents: Path, tmp_path: Path) -> None:
    (tmp_path / "kb").mkdir()
    (tmp_path / "kb" / "mine.txt").write_text("mine")
    with pytest.raises(StorageError):
        index(documents, tmp_path / "kb", encoder="none")
    assert [path.name for path in (tmp_path / "kb").iterdir()] == ["mine.txt"]


def test_a_limit_of_size_holds_even_if_it_leaves_nothing(documents: Path, tmp_path: Path) -> None:
    with pytest.raises(EmptySetError, match="is the most"):
        index(documents, tmp_path / "kb", encoder="none", largest=0)
    assert not (tmp_path / "kb").exists()


def test_conditions_are_read_as_numbers_where_they_are(documents: Path, tmp_path: Path) -> None:
    index(documents, tmp_path / "kb", encoder="none")
    assert [hit.document for hit in search(tmp_path / "kb", "capital", where=["n=3"]).hits] == ["rows.jsonl:lima"]
    assert search(tmp_path / "kb", "capital", where=["n=4"]).hits == ()
    with pytest.raises(SettingsError, match="lang=en"):
        search(tmp_path / "kb", "capital", where=["n"])


def test_an_encoder_is_kept_by_name_and_used_for_search(
    documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keeps.retrieval.embedders.SentenceEmbedder", lambda *_, **__: WordSums())
    found = index(documents, tmp_path / "kb")
    assert found.encoder == "word-sums"
    hits = search(tmp_path / "kb", "capital of Peru", words=False).hits
    assert hits[0].document == "rows.jsonl:lima"
    assert dict(hits[0].ranks) == {"dense": 1}


def test_the_commands_index_and_search(documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (documents / "bad.txt").write_bytes(b"\xff")
    kb = str(tmp_path / "kb")
    assert main(["index", str(documents), "--out", kb, "--encoder", "none", "--json", "--quiet"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["added"], said["skipped"][0]["path"]) == (2, "bad.txt")
    assert main(["index", str(documents), "--out", kb, "--quiet"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["search", kb, "capital of Norway", "--k", "1", "--json"]) == 0
    (hit,) = json.loads(capsys.readouterr().out)["hits"]
    assert (hit["id"], hit["span"]) == ("oslo.md#0-37", [0, 37])
    assert main(["search", kb, "capital [bold]of[/bold] Norway"]) == 0
    assert "oslo.md#0-37" in capsys.readouterr().out
    assert main(["search", kb, "zzz"]) == 0
    assert "nothing was found" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["index", "missing", "--out", "kb"], "no such file"),
        (["index", "documents"], "--out"),
        (["search", "documents", "query"], "no index"),
        (["search", "documents", "query", "--by", "smell"], "smell"),
        (["search", "documents", "query", "--k", "0"], "k"),
        (["index", "documents", "--out", "kb", "--stop-words", "klingon"], "klingon"),
    ],
)
def test_a_mistake_is_one_paragraph_and_exit_code_2(
    argv: list[str], words: str, documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("keeps: error: ")
    assert said.count("\n") == 1
    assert words in said
    assert not (tmp_path / "kb").exists()
