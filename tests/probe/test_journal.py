"""A journal asks every item once, whatever kills the process in between, and hides nothing of the answerer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from keeps.contracts import Answer
from keeps.errors import RecordError, StorageError
from keeps.models.scores import AnswerScore, Asked, ChoiceScore, TextScore
from keeps.probe import journal
from keeps.probe.journal import Journal, remembered


class Counting:
    """Answers from the words of the prompt, counts what it is asked, and can be killed."""

    fingerprint = "counting"

    def __init__(self, killed_after: int | None = None) -> None:
        self.seen: list[str] = []
        self.killed_after = killed_after

    def _note(self, prompts: Sequence[str]) -> None:
        if self.killed_after is not None and len(self.seen) + len(prompts) > self.killed_after:
            raise KeyboardInterrupt
        self.seen += prompts

    def ask(self, prompts, answers, *, max_new_tokens=12, advance=None):
        self._note(prompts)
        if advance:
            advance(len(prompts))
        return [Asked(f"{p} {max_new_tokens}", -1 / 3, len(a), True) for p, a in zip(prompts, answers, strict=True)]

    def rank(self, prompts, choices):
        self._note(prompts)
        return [ChoiceScore.of([AnswerScore(-float(n) - 0.1, 1, False) for n, _ in enumerate(c)]) for c in choices]

    def logprob(self, prompts, answers):
        self._note(prompts)
        return [AnswerScore(-float(len(p)), len(a), False) for p, a in zip(prompts, answers, strict=True)]

    def generate(self, prompts, *, stop=("\n",)):
        self._note(prompts)
        return [p.upper() for p in prompts]

    def text_logprob(self, texts):
        self._note(texts)
        return [TextScore(-float(len(t)), len(t)) for t in texts]

    def answer(self, questions, contexts=None):
        self._note(questions)
        return [Answer(q, ("source",), {"steps": [1, 2]}) for q in questions]


CALLS = {
    "ask": (["a é", "b"], ["x", "y z"]),
    "rank": (["a", "b"], [["x", "y"], ["z"]]),
    "logprob": (["a", "b"], ["x", "y"]),
    "generate": (["a", "b"],),
    "text_logprob": (["a", "b"],),
    "answer": (["a", "b"],),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_call_gives_what_the_answerer_gives_at_first_and_from_the_file(name: str, tmp_path: Path) -> None:
    plain = getattr(Counting(), name)(*CALLS[name])
    answerer = Counting()
    with Journal(answerer, tmp_path / "j.jsonl") as asking:
        assert getattr(asking, name)(*CALLS[name]) == plain
        assert getattr(asking, name)(*CALLS[name]) == plain
        assert len(answerer.seen) == 2, "asked once"


def test_what_was_asked_before_a_kill_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "PART", 3)
    prompts, path = [f"p{n}" for n in range(10)], tmp_path / "j.jsonl"
    first = Counting(killed_after=6)
    with pytest.raises(KeyboardInterrupt), Journal(first, path) as asking:
        asking.ask(prompts, prompts)
    path.write_bytes(path.read_bytes() + b'{"key": "half a li')  # the process died while it wrote
    second, reported = Counting(), []
    with Journal(second, path) as asking:
        found = asking.ask(prompts, prompts, advance=reported.append)
    assert first.seen + second.seen == prompts
    assert found == Counting().ask(prompts, prompts)
    assert sum(reported) == 10
    assert not path.exists(), "nothing is left to go on with"


def test_equal_items_are_asked_once_and_other_options_ask_again(tmp_path: Path) -> None:
    answerer = Counting()
    with Journal(answerer, tmp_path / "j.jsonl") as asking:
        asking.ask(["a", "a", "b"], ["x", "x", "x"], max_new_tokens=4)
        assert answerer.seen == ["a", "b"]
        assert asking.ask(["a"], ["x"], max_new_tokens=5)[0].text == "a 5"
        asking.ask(["a"], ["y"], max_new_tokens=5)
    assert answerer.seen == ["a", "b", "a", "a"]


def test_what_the_answerer_has_or_lacks_the_journal_has_or_lacks(tmp_path: Path) -> None:
    with Journal(Counting(), tmp_path / "j.jsonl") as asking:
        assert asking.fingerprint == "counting"
        assert hasattr(asking, "ask")
        assert not hasattr(asking, "sample")


def test_lists_of_different_lengths_are_refused(tmp_path: Path) -> None:
    with Journal(Counting(), tmp_path / "j.jsonl") as asking, pytest.raises(RecordError, match="2 prompts, 1 answers"):
        asking.ask(["a", "b"], ["x"])


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        Journal(Counting(), tmp_path / "file" / "j.jsonl")


def test_work_is_remembered_by_its_name_and_item(tmp_path: Path) -> None:
    asked: list[Any] = []

    def ask(item: Any) -> dict[str, Any]:
        asked.append(item)
        return {"of": (item, math.pi)}

    with Journal(object(), tmp_path / "a.jsonl") as journal:
        first = remembered(journal, "work", ["x", "y", "x"], ask)
        again = remembered(journal, "work", ["y"], ask)
        other = remembered(journal, "other work", ["y"], ask)
    assert first == remembered(object(), "work", ["x", "y", "x"], ask)
    assert again == other == [{"of": ["y", math.pi]}]
    assert asked == ["x", "y", "y", "x", "y", "x"], "once in the journal, each time without"
