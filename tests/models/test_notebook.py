"""The notebook: what replaces what, search by exact likeness, and that it is the same after being written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from keeps.data.edits import Edit
from keeps.errors import RecordError, SettingsError, StorageError, UnknownNameError
from keeps.models.encoder import SentenceEncoder
from keeps.models.notebook import Note, Notebook, _Letters, notes_of

STATEMENTS = [
    f"The {thing} of {place} is {value}"
    for thing, place, value in (
        ("mayor", "Brivo", "Anna Kel"),
        ("river", "Brivo", "the Loss"),
        ("mayor", "Tamsk", "Otto Fenn"),
        ("anthem", "Ulvia", "Green Hills"),
    )
]


def book(**options: Any) -> Notebook:
    return Notebook(_Letters(), **options)


def test_search_agrees_with_sorting_all_cosines() -> None:
    notebook = book()
    notebook.add(STATEMENTS)
    question = "Who is mayor of Tamsk?"
    vectors = _Letters().encode([*STATEMENTS, question]).double()
    cosines = (vectors[:-1] @ vectors[-1]) / (vectors[:-1].norm(dim=1) * vectors[-1].norm())
    wanted = [STATEMENTS[index] for index in cosines.argsort(descending=True).tolist()]
    found = notebook.search([question], k=3)[0]
    assert [hit.note.statement for hit in found] == wanted[:3]
    assert [hit.likeness for hit in found] == pytest.approx(cosines.sort(descending=True).values[:3].tolist(), abs=1e-6)


def test_notes_added_in_one_call_or_in_two_are_found_alike() -> None:
    once, twice = book(), book()
    once.add(STATEMENTS)
    twice.add(STATEMENTS[:1])
    twice.add(STATEMENTS[1:])
    questions = ["mayor of Tamsk", "river", "Ulvia"]
    assert once.search(questions, 5) == twice.search(questions, 5)
    assert once.vectors is not None
    assert once.vectors.shape == (4, 26)


def test_fewer_notes_than_k_give_what_there_is_and_an_empty_notebook_nothing() -> None:
    notebook = book()
    assert notebook.search(["anything"], 5) == [[]]
    notebook.add(STATEMENTS[:2])
    assert [len(found) for found in notebook.search(["a", "b"], 5)] == [2, 2]


def test_a_newer_note_on_the_same_subject_and_relation_wins() -> None:
    notebook = book()
    edits = [Edit("a", "Oslo", "Oslo lies in", "Sweden"), Edit("b", "Oslo", "Oslo lies in", "Peru")]
    notebook.add(notes_of(edits))
    assert [note.id for note in notebook.notes] == ["b"]
    notebook.add([Note("c", "Oslo has snow", "Oslo", "weather")])
    assert [note.id for note in notebook.notes] == ["b", "c"]


def test_near_duplicates_are_replaced_only_when_that_is_asked_for() -> None:
    statement = STATEMENTS[0]
    plain, near = book(), book(near=0.95)
    for notebook in (plain, near):
        notebook.add([statement, statement + "e"])
    assert len(plain) == 2
    assert [note.statement for note in near.notes] == [statement + "e"]
    other = [Note("x", statement, "Brivo", "mayor"), Note("y", statement, "Brivo", "lord")]
    assert len(near.add(other)) == 2  # both say what they are about, and it differs
    assert [note.id for note in near.notes] == ["x", "y"]


def test_of_equal_notes_the_newer_comes_first() -> None:
    notebook = book()
    notebook.add(["ab", "ba"])
    assert [hit.note.statement for hit in notebook.search(["ab"], 2)[0]] == ["ba", "ab"]


def test_a_removed_note_is_not_found_and_the_others_are_as_before() -> None:
    notebook = book()
    ids = notebook.add(STATEMENTS)
    before = notebook.search(["mayor of Tamsk"], 4)[0]
    notebook.remove(ids[0])
    after = notebook.search(["mayor of Tamsk"], 4)[0]
    assert [hit.note for hit in after] == [hit.note for hit in before if hit.note.id != ids[0]]
    with pytest.raises(UnknownNameError, match=ids[0]):
        notebook.remove(ids[0])


def test_what_was_written_is_read_bit_by_bit(tmp_path: Path) -> None:
    notebook = book()
    notebook.add(STATEMENTS)
    notebook.save(tmp_path)
    read = Notebook.load(tmp_path, encoder=_Letters())
    assert read.notes == notebook.notes
    assert read.vectors is not None
    assert notebook.vectors is not None
    assert torch.equal(read.vectors, notebook.vectors)
    assert read.add(["One more"]) == ["note-5"]
    (tmp_path / "notes.jsonl").write_text("{")
    with pytest.raises(StorageError, match="cannot be read"):
        Notebook.load(tmp_path)


def test_bad_notes_are_refused() -> None:
    notebook = book()
    for bad in ([" . "], [None], "a text"):
        with pytest.raises(RecordError):
            notebook.add(bad)  # type: ignore[arg-type]
    notebook.add([Note("a", "x is y")])
    with pytest.raises(RecordError, match="twice"):
        notebook.add([Note("a", "u is w")])
    with pytest.raises(SettingsError):
        notebook.search(["x"], 0)
    with pytest.raises(SettingsError):
        book(near=1.5)


def test_the_embedded_encoder_finds_a_note_by_its_meaning() -> None:
    notebook = Notebook(SentenceEncoder.load())
    notebook.add(STATEMENTS)
    found = notebook.search(["Who runs the town of Tamsk?", "What do people in Ulvia sing?"], 1)
    assert [hits[0].note.statement for hits in found] == [STATEMENTS[2], STATEMENTS[3]]
