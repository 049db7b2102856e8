"""Lessons of both tasks in their ratio, with right labels, readable by keeps adapt."""

from __future__ import annotations

from pathlib import Path

import pytest

from keeps.claims.hybrid_dialog_world import TEMPLATES, conversations, town
from keeps.data.entity_dialogs import RESPOND, SELECT
from keeps.data.readers import read_records
from keeps.data.records import Example, RecordSet
from keeps.errors import ContextLengthError, EmptySetError, SettingsError
from keeps.training.dialog_labels import oracle
from keeps.training.dialog_lessons import Lessons, dialog_lessons, write_lessons
from keeps.training.relocation import relocated

FULL = town(0, houses=12)
REPLIES = conversations(FULL, 0)


def examples(lessons: RecordSet) -> list[Example]:
    return [record for record in lessons if isinstance(record, Example)]


def test_every_reply_is_learned_once_and_labels_are_in_the_ratio() -> None:
    found = examples(dialog_lessons(REPLIES, FULL))
    spoken = [lesson for lesson in found if lesson.prompt.startswith(RESPOND)]
    labels = [lesson.answer for lesson in found if lesson.prompt.startswith(SELECT)]
    assert sorted(lesson.answer for lesson in spoken) == sorted(reply.text for reply in REPLIES)
    assert labels.count("yes") == labels.count("no") == len(spoken) // 2


def test_labels_say_whether_the_shown_entity_is_right_and_show_it_as_it_lies_now() -> None:
    base = relocated(FULL, REPLIES, TEMPLATES).base
    right = {reply.id: {entity.id for entity in oracle(reply, FULL)} for reply in REPLIES}
    for lesson in examples(dialog_lessons(REPLIES, base, FULL, Lessons(4, 8, 0))):
        reply, _, entity = lesson.id.rpartition(":")
        assert (lesson.answer == "yes") == (entity in right[reply])
        assert base.by_id[entity].text() in lesson.prompt


def test_a_task_can_be_left_out_and_labels_can_be_explained() -> None:
    alone = examples(dialog_lessons(REPLIES, FULL, how=Lessons(0, 0, 1)))
    assert len(alone) == len(REPLIES)
    assert all(lesson.prompt.startswith(RESPOND) for lesson in alone)
    told = examples(dialog_lessons(REPLIES, FULL, how=Lessons(1, 1, 0, explain=True)))
    assert all(" <entity_explanation> " in lesson.answer for lesson in told)
    assert any(lesson.answer.endswith("area and pricerange and stars matched") for lesson in told)


def test_lessons_are_the_same_for_a_seed_and_are_read_by_keeps_adapt(tmp_path: Path) -> None:
    found = dialog_lessons(REPLIES, FULL, seed=4)
    assert found.records == dialog_lessons(REPLIES, FULL, seed=4).records != dialog_lessons(REPLIES, FULL).records
    write_lessons(tmp_path / "lessons.jsonl", found)
    assert read_records(tmp_path / "lessons.jsonl").fingerprint == found.fingerprint


def test_nothing_to_learn_and_too_long_tables_are_refused() -> None:
    with pytest.raises(SettingsError, match="ratio"):
        Lessons(0, 0, 0)
    with pytest.raises(EmptySetError):
        dialog_lessons([], FULL)
    with pytest.raises(ContextLengthError, match="exceed 5 tokens"):
        dialog_lessons(REPLIES, FULL, how=Lessons(most=5))
