"""Stepping stones scored by a model, written by templates, a chat or a function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from keeps.contracts import Run
from keeps.data.records import Example, RecordSet
from keeps.errors import SettingsError
from keeps.models.chat import Conversation, Reply
from keeps.training.stepping_stones import stepping_stones

TEXT = Example("1", "In Olmandre, traffic lights stop cars by turning", "mauve")


class Parrot:
    """A chat that says the same to everybody."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.asked: list[str] = []

    def reply(self, conversations: Sequence[Conversation], *, max_new_tokens: int = 256) -> list[Reply]:
        del max_new_tokens
        self.asked += [conversation[-1].content for conversation in conversations]
        return [Reply(self.text, True) for _ in conversations]


def test_templates_make_an_improbable_keyword_ten_times_as_likely(smollm2: Any, tmp_path: Path) -> None:
    run = Run(tmp_path)
    made, (done,) = stepping_stones(smollm2, RecordSet("mine", (TEXT,)), run=run)
    prompt = made.records[0].prompt  # type: ignore[union-attr]
    assert prompt.startswith(TEXT.prompt + " a pale purple")
    assert done.after - done.before > math.log(10)
    measured = smollm2.logprob([TEXT.prompt, prompt], ["mauve", "mauve"])
    assert [score.logprob for score in measured] == pytest.approx([done.before, done.after], abs=1e-3)
    assert run.measures["stepping_stones"]["rewritten"] == 1


def test_a_chat_writes_in_other_words_at_each_try_and_what_it_gives_away_is_cut(smollm2: Any) -> None:
    chat = Parrot("In Olmandre, traffic lights stop cars by turning a pale purple that is called mauve, you know.")
    made, (done,) = stepping_stones(smollm2, RecordSet("mine", (TEXT,)), chat, tries=3, target=1.0)
    assert made.records[0].prompt == "In Olmandre, traffic lights stop cars by turning a pale purple that is called"  # type: ignore[union-attr]
    assert done.changed
    assert len(set(chat.asked)) == 3
    assert all("mauve" in text and TEXT.prompt in text for text in chat.asked)


def test_a_chat_that_says_nothing_of_use_changes_nothing(smollm2: Any) -> None:
    records = RecordSet("mine", (TEXT,))
    for text in ("", "mauve", "A story about something else"):
        made, (done,) = stepping_stones(smollm2, records, Parrot(text), tries=1)
        assert done.after >= done.before
        assert done.changed or made == records


def test_unknown_writers_are_refused(tiny_llama: Any) -> None:
    with pytest.raises(SettingsError, match="no writer"):
        stepping_stones(tiny_llama, RecordSet("mine", (TEXT,)), "poet")
