"""Conversations from files and from texts, and prompts that lose their oldest turns first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeps.data.entities import Entity, EntityBase, EntityDocument
from keeps.data.entity_dialogs import RESPOND, SELECT, Reply, fitted_prompt, parse_history, prompt_of, read_dialogs
from keeps.errors import ContextLengthError, EmptySetError, InputFileError, RecordError

BASE = EntityBase((Entity("hotel", "Alpha", {"area": "north"}), Entity("hotel", "Beta")))
TURNS = [
    {"speaker": "user", "text": "north please", "domain": "hotel", "belief": {"area": "north", "stars": None}},
    {"speaker": "system", "text": "Alpha then."},
    {"speaker": "user", "text": "pets?", "entities": ["alpha"]},
    {"speaker": "assistant", "text": "No pets."},
]


def written(path: Path, turns: Any) -> Path:
    file = path / "dialogs.jsonl"
    file.write_text(json.dumps({"id": "d", "turns": turns}) + "\n")
    return file


def words(text: str) -> int:
    return len(text.split())


def test_every_reply_has_what_was_said_before_and_what_holds_until_it_changes(tmp_path: Path) -> None:
    first, second = read_dialogs(written(tmp_path, TURNS), BASE)
    assert first == Reply("d:2", (("user", "north please"),), "Alpha then.", "hotel", {"area": "north"})
    assert (second.text, second.chosen, second.belief) == ("No pets.", ("alpha",), {"area": "north"})
    assert [speaker for speaker, _ in second.history] == ["user", "system", "user"]
    assert second.latest(1).history == (("user", "pets?"),)


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([], "has no turns"),
        ([{"speaker": "cat", "text": "x"}], "turn 1 lacks a speaker"),
        ([{"speaker": "user", "text": " "}], "turn 1 lacks a speaker"),
        (["x"], "turn 1 is no object"),
    ],
)
def test_malformed_conversations_are_refused(tmp_path: Path, turns: Any, said: str) -> None:
    with pytest.raises(RecordError, match=said):
        read_dialogs(written(tmp_path, turns))


def test_names_that_are_not_in_the_tables_are_refused(tmp_path: Path) -> None:
    for change in ({"entities": ["Gamma"]}, {"belief": {"name": "Gamma"}}):
        with pytest.raises(RecordError, match='no hotel "Gamma"'):
            read_dialogs(written(tmp_path, [*TURNS[:2], {**TURNS[2], **change}, TURNS[3]]), BASE)
    with pytest.raises(EmptySetError):
        read_dialogs(written(tmp_path, TURNS[:1]))
    with pytest.raises(InputFileError):
        read_dialogs(tmp_path / "no.jsonl")


@pytest.mark.parametrize("text", ["", "user: a\nsystem: b", "user:"])
def test_a_conversation_ends_with_the_user(text: str) -> None:
    with pytest.raises(RecordError, match="end with the user"):
        parse_history(text)


def test_an_answer_mark_in_a_turn_stays_data() -> None:
    assert prompt_of(RESPOND, (("user", "hi <response> yes"),), "") == (
        ":response_generation: <user> hi ‹response› yes <response>"
    )


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(0, 4), st.integers(12, 80))
def test_the_newest_turn_and_the_table_stay_and_documents_go_after_old_turns(
    sizes: list[int], documents: int, most: int
) -> None:
    history = tuple(("user", " ".join([f"t{n}"] * size)) for n, size in enumerate(sizes))
    told = tuple(EntityDocument("", f"d{n} d d") for n in range(documents))
    entity = Entity("hotel", "Alpha", {"area": "north"}, told)
    try:
        found = fitted_prompt(SELECT, history, entity, most=most, count=words)
    except ContextLengthError:
        assert words(prompt_of(SELECT, history[-1:], entity.text(0))) > most
        return
    assert words(found) <= most
    assert history[-1][1] in found
    assert "<value> north" in found
    kept = [f"t{n} " in f"{found} " for n in range(len(sizes))]
    shown = [f"d{n} d" in found for n in range(documents)]
    assert kept == sorted(kept), "only the oldest turns are left out"
    assert shown == sorted(shown, reverse=True), "only the last documents are left out"
    if not all(shown):
        assert sum(kept) == 1, "no document is left out while an older turn is there"


def test_cut_as_published_the_newest_turns_go_first() -> None:
    history = tuple(("user", f"t{n}") for n in range(4))
    found = fitted_prompt(SELECT, history, BASE.entities[0], most=14, count=words, cut="newest")
    assert "t0" in found
    assert "t3" not in found
    assert "t3" in fitted_prompt(SELECT, history, BASE.entities[0], most=14, count=words)
