"""A memory of pairs: rows are edited one by one and no other row changes; the disk holds a whole one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from retrieval_stubs import WordSums

import keeps.retrieval.generations as generations
from keeps.data.pairs import QA
from keeps.errors import RecordError, SettingsError, StorageError, UnknownNameError
from keeps.retrieval.qa_memory import KEYS, PAIRS, QAMemory

FACTS = [
    QA("What is the capital of Norway?", "Oslo", "norway", "atlas"),
    QA("What is the capital of Peru?", "Lima", "peru"),
    QA("Who wrote the score of Peer Gynt?", "Edvard Grieg", "grieg"),
]


def made(pairs: list[QA] | None = None) -> QAMemory:
    memory = QAMemory(WordSums())
    memory.add(FACTS if pairs is None else pairs)
    return memory


def test_pairs_are_found_by_their_questions_with_the_inner_products_as_scores() -> None:
    memory = made()
    found = memory.search("Norway's capital?", k=3)
    assert found[0][0] == FACTS[0]
    query = WordSums().queries(["Norway's capital?"])[0]
    assert [score for _, score in found] == pytest.approx(
        sorted((memory.keys.astype(np.float32) @ query).tolist(), reverse=True), abs=1e-6
    )
    assert len(memory.search("Norway", k=50)) == 3  # clipped to what there is


def test_another_answer_leaves_every_key_and_another_question_all_but_its_own() -> None:
    memory = made()
    before = memory.keys.copy()
    assert memory.update("peru", answer="Cusco").answer == "Cusco"
    assert np.array_equal(before, memory.keys)
    assert memory.search("capital of Peru", k=1)[0][0].answer == "Cusco"
    memory.update("peru", question="Which city governs Peru?")
    assert np.array_equal(before[[0, 2]], memory.keys[[0, 2]])
    assert not np.array_equal(before[1], memory.keys[1])
    memory.delete("norway")
    assert np.array_equal(memory.keys[1], before[2])
    assert [pair.id for pair in memory] == ["peru", "grieg"]
    assert "norway" not in memory


@given(st.lists(st.tuples(st.sampled_from("aud"), st.integers(0, 5), st.integers(0, 3)), max_size=12))
def test_after_any_edits_the_memory_is_the_one_built_anew_from_its_pairs(steps: list[tuple[str, int, int]]) -> None:
    memory = QAMemory(WordSums())
    for what, number, other in steps:
        name, known = f"p{number}", f"p{number}" in memory
        if what == "a" and not known:
            memory.add([QA(f"question {number}", f"answer {other} of {number}", name)])
        elif what == "u" and known:
            memory.update(name, question=f"question {number} reworded {other}")
        elif what == "d" and known:
            memory.delete(name)
    again = made(list(memory))
    assert list(again) == list(memory)
    assert np.array_equal(again.keys, memory.keys)


def test_one_pair_stands_there_once_and_rewordings_leave_room_for_other_answers() -> None:
    memory = made()
    assert memory.add([QA("what is the  CAPITAL of Norway?", "oslo", "again")]) == ["norway"]
    assert len(memory) == 3
    memory.add([QA(f"What is the capital of Norway, version {n}?", "Oslo", f"copy{n}") for n in range(5)])
    answers = [pair.answer for pair, _ in memory.search("capital of Norway", k=3, per_answer=1)]
    assert answers[0] == "Oslo"
    assert sorted(answers[1:]) == ["Edvard Grieg", "Lima"]
    left = memory.nearest(WordSums().queries(["capital of Norway"])[0], 2, without=["norway"])
    assert "norway" not in [pair.id for pair, _ in left]


def test_what_is_wrong_is_refused_and_nothing_changes() -> None:
    memory = made()
    before = list(memory)
    with pytest.raises(RecordError, match="is there already"):
        memory.add([QA("new?", "yes", "new"), QA("other?", "no", "norway")])
    with pytest.raises(UnknownNameError, match="no pair"):
        memory.delete(["norway", "nowhere"])
    with pytest.raises(UnknownNameError, match="no pair"):
        memory.update("norwey", answer="x")
    with pytest.raises(RecordError, match="empty or longer"):
        memory.update("norway", answer=" ")
    with pytest.raises(RecordError, match="neither"):
        memory.update("norway")
    with pytest.raises(RecordError, match="question is empty"):
        memory.search(" ")
    with pytest.raises(SettingsError, match="at least one"):
        memory.search("x", k=0)
    with pytest.raises(RecordError, match="does not fit"):
        memory.nearest(np.full(24, np.nan), 1)
    assert list(memory) == before
    assert QAMemory(WordSums()).search("anything") == []
    with pytest.raises(ValueError, match="read-only"):
        memory.keys[0, 0] = 1


def test_an_encoder_that_fails_or_overflows_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = made()
    before, keys = list(memory), memory.keys.copy()
    monkeypatch.setattr(memory.encoder, "passages", lambda texts: np.full((len(texts), 24), 1e9))
    for change in (lambda: memory.add([QA("q", "a")]), lambda: memory.update("peru", question="q"), memory.refresh):
        with pytest.raises(RecordError, match="not finite"):
            change()
    assert list(memory) == before
    assert np.array_equal(memory.keys, keys)


def test_a_saved_memory_is_the_same_and_edits_of_it_are_saved_in_their_place(tmp_path: Path) -> None:
    memory = made()
    memory.save(tmp_path / "memory")
    found = QAMemory.open(tmp_path / "memory", encoder=WordSums())
    assert list(found) == list(memory)
    assert np.array_equal(found.keys, memory.keys)
    found.update("norway", answer="Bergen")
    found.save()
    assert QAMemory.open(tmp_path / "memory", encoder=WordSums()).get("norway").answer == "Bergen"
    memory.update("peru", answer="Cusco")
    with pytest.raises(StorageError, match="changed since"):
        memory.save()
    memory.copy_to(tmp_path / "copy")
    assert QAMemory.open(tmp_path / "copy", encoder=WordSums()).get("peru").answer == "Cusco"
    with pytest.raises(SettingsError, match="no folder"):
        made().save()


def test_keys_of_another_encoder_are_refused(tmp_path: Path) -> None:
    made().save(tmp_path / "memory")
    with pytest.raises(SettingsError, match="the keys were made by"):
        QAMemory.open(tmp_path / "memory", encoder=WordSums("another"))


class Killed(BaseException):
    """What no handler of ordinary errors may catch."""


@pytest.mark.parametrize("place", ["np.save", "_described", "sync_all", "atomic_write_bytes"])
@pytest.mark.parametrize("kind", [Killed, OSError])
def test_a_failure_at_any_step_of_writing_leaves_the_old_memory(
    place: str, kind: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = made()
    memory.save(tmp_path / "memory")
    memory.update("norway", answer="Bergen")

    def fail(*_: Any, **__: Any) -> Any:
        raise kind

    monkeypatch.setattr(np, "save", fail) if place == "np.save" else monkeypatch.setattr(generations, place, fail)
    with pytest.raises(StorageError if kind is OSError else kind):
        memory.save()
    monkeypatch.undo()
    assert QAMemory.open(tmp_path / "memory", encoder=WordSums()).get("norway").answer == "Oslo"
    memory.save()
    assert QAMemory.open(tmp_path / "memory", encoder=WordSums()).get("norway").answer == "Bergen"


@pytest.mark.parametrize("damage", ["bytes", "missing", "form", "rows", "empty", "index"])
def test_a_damaged_memory_is_refused_with_its_name(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    made().save(folder)
    (version,) = folder.glob("version-*")
    manifest = json.loads((folder / "manifest.json").read_text())
    if damage == "bytes":
        (version / KEYS).write_bytes(b"\x93NUMPY")
    elif damage == "missing":
        (version / PAIRS).unlink()
    elif damage == "index":
        manifest["kind"] = "other"
    else:  # files that were written so, by whatever hand
        rows = {"form": '{"id": 1}\n', "rows": (version / PAIRS).read_text().splitlines()[0] + "\n"}
        empty = json.dumps({"question": "", "answer": "a", "id": "x", "source": ""}) + "\n"
        (version / PAIRS).write_text(rows.get(damage, empty * 3))
        manifest["files"][PAIRS] = generations._described(version / PAIRS)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StorageError):
        QAMemory.open(folder, encoder=WordSums())
