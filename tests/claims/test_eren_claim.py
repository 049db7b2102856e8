"""The data of EREN's claim: what is calibrated on is never reported, and questions need what they say they need."""

from __future__ import annotations

from pathlib import Path

import pytest

from keeps.claims.eren import CLAIM
from keeps.claims.eren_data import EDITS, counterfact_hard_job, world_job
from keeps.claims.eren_people import statements, two_note_questions
from keeps.errors import InputFileError


def test_the_reported_facts_are_not_calibrated_on() -> None:
    job = world_job()
    calibrated = {edit.subject for edit in job.calibration}
    assert len(job.notes) == EDITS
    assert calibrated
    assert not calibrated & {note.subject for note in job.notes}
    assert len({note.subject for note in job.notes}) == EDITS
    assert all(target in note.statement for note, (_, target) in zip(job.notes, job.inside[::2], strict=True))
    assert {kind: len(prompts) > EDITS for kind, prompts in job.outside.items()} == {
        "neighbour": True,
        "same-subject": True,
    }


def test_invented_statements_are_asked_in_other_words() -> None:
    pairs = list(statements(40))
    assert len({note.statement for note, _ in pairs}) == 200
    assert all(note.subject in question and note.statement not in question for note, question in pairs)
    assert all(note.target not in question for note, question in pairs)


def test_questions_on_two_notes_name_both_people_and_no_answer() -> None:
    for question in two_note_questions(30):
        assert all(note.subject in question.prompt for note in question.notes)
        assert not any(answer in question.prompt for answer in question.answers)


@pytest.mark.shared_data
def test_counterfact_hard_is_read_with_both_kinds_of_negatives(shared_data: Path) -> None:
    job = counterfact_hard_job(shared_data)
    assert len(job.notes) == len(job.calibration) == EDITS
    assert not {note.id for note in job.notes} & {edit.id for edit in job.calibration}
    assert job.right("Her mother tongue is English.", "English")
    assert not job.right("Englishman", "English")


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="counterfact_hard"):
        counterfact_hard_job(tmp_path)


def test_the_claim_bears_the_name_of_its_card() -> None:
    assert CLAIM.card == "eren"
