"""Running text is scored token by token, whatever else is read with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keeps.contracts import Run
from keeps.data.records import Passage
from keeps.errors import EmptySetError, SettingsError
from keeps.models import LanguageModel
from keeps.probe import TextProbe
from keeps.probe.text import CHUNK, SHOWN

PASSAGES = [
    Passage("a", "The sea is wide and the sky is high. " * 3),
    Passage("b", "Once upon a time there was a fox."),
]


def test_each_row_holds_the_log_probability_of_its_passage(tiny_llama: LanguageModel) -> None:
    rows = TextProbe(PASSAGES, group="keep: text")(tiny_llama)
    for row, passage in zip(rows, PASSAGES, strict=True):
        [score] = tiny_llama.text_logprob([passage.text])
        assert (row.id, row.group, row.kind, row.correct) == (passage.id, "keep: text", "text", False)
        assert row.logprob == pytest.approx(score.logprob, abs=1e-3)
        assert row.details == {"tokens": score.tokens}
        assert row.score == pytest.approx(score.logprob / score.tokens, abs=1e-5)
        assert row.prompt == passage.text[:SHOWN]


def test_many_passages_are_read_in_parts_with_progress(tiny_llama: LanguageModel) -> None:
    seen: list[Any] = []

    class Counting:
        def message(self, text: str) -> None: ...

        def task(self, description: str, total: float | None, done: float = 0) -> Any:
            from contextlib import nullcontext

            seen.extend([description, total, done])

            class Task:
                def advance(self, amount: float = 1) -> None:
                    seen.append(amount)

                def note(self, text: str) -> None: ...

            return nullcontext(Task())

    passages = [Passage(f"{number}", f"Passage {number} is short.") for number in range(CHUNK + 2)]
    probe = TextProbe(passages)
    rows = probe(tiny_llama, run=Run(Path(), progress=Counting()))
    assert [row.id for row in rows] == probe.ids == [passage.id for passage in passages]
    assert seen == ["read text", CHUNK + 2, 0, CHUNK, 2]


def test_the_fingerprint_depends_on_texts_ids_and_group() -> None:
    probes = [
        TextProbe(PASSAGES),
        TextProbe(PASSAGES[:1]),
        TextProbe(PASSAGES, group="text"),
        TextProbe(PASSAGES[::-1]),
    ]
    assert len({probe.fingerprint for probe in probes}) == 4
    assert TextProbe(PASSAGES, name="other").fingerprint == probes[0].fingerprint
    assert TextProbe([Passage("1", "Once upon a time.")]).fingerprint == "d096e57347aa60c9"


def test_an_answerer_without_probabilities_is_refused() -> None:
    class Oracle:
        def answer(self, questions: Any, contexts: Any = None) -> Any:
            raise AssertionError("asked for text")

    with pytest.raises(SettingsError, match="no token probabilities"):
        TextProbe(PASSAGES)(Oracle())
    with pytest.raises(EmptySetError, match="no passage"):
        TextProbe([])
