"""Adaptive-Note's claim on published questions: its file is read as published, a loop that finds nothing found out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from keeps.claims import adaptive_note_published
from keeps.claims.adaptive_note import CLAIM
from keeps.claims.adaptive_note_books import AUTHORS, BOOKS, CITIES, TITLES
from keeps.claims.adaptive_note_published import (
    BY_MODEL,
    CHOSEN_ON,
    FILE,
    TwoSteps,
    answer_checks,
    gain_check,
    loop_checks,
    model_checks,
    stop_check,
    two_steps,
)
from keeps.claims.adaptive_note_reader import RuleReader, names_in, tells_of, untold
from keeps.claims.adaptive_note_traces import breaks_a_guarantee
from keeps.claims.base import ClaimRun
from keeps.claims.grounding_world import lexical_retriever
from keeps.contracts import Answer
from keeps.errors import EmptySetError, InputFileError
from keeps.ground.adaptive_note import AdaptiveNote
from keeps.sources import Hit

RUN = adaptive_note_published.RUN


def born(author: int) -> str:
    return f"{AUTHORS[author]} was born in the town called {CITIES[author]}."


def wrote(book: int) -> str:
    return f"The {TITLES[book]} is a novel that was written by {AUTHORS[book]}."


def bridge(book: int) -> dict[str, Any]:
    question = f"In which town was the writer of the novel {TITLES[book]} born?"
    return row(book, "bridge", question, CITIES[book], [wrote(book), born(book)])


def comparison(book: int) -> dict[str, Any]:
    one, other = book, (book + 7) % BOOKS
    question = f"Were {AUTHORS[one]} and {AUTHORS[other]} born in the same town?"
    return row(book, "comparison", question, "no", [born(one), born(other)])


def row(number: int, kind: str, question: str, answer: str, notes: list[str]) -> dict[str, Any]:
    return {"id": str(number), "type": kind, "edit_scope": [[question, answer]], "edit_statement": notes}


def write(folder: Path, rows: Sequence[Any]) -> Path:
    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(each) for each in rows))
    return folder


def published(folder: Path) -> Path:
    """As many rows as rules were written with, then bridges and comparisons in turn."""
    reported = [make(book) for book in range(0, 60, 2) for make in (bridge, comparison)]
    return write(folder, [*(bridge(book) for book in range(CHOSEN_ON)), *reported])


def test_rows_that_rules_were_written_with_are_not_reported_and_each_note_is_there_once(tmp_path: Path) -> None:
    asked, documents = two_steps(published(tmp_path))
    assert (len(asked), len(documents)) == (60, 2 * BOOKS)
    assert {each.kind for each in asked} == {"bridge", "comparison"}
    assert asked[0].question == bridge(0)["edit_scope"][0][0]
    for each in asked[::2]:
        assert sum(each.answer in documents[name] for name in each.notes) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"edit_statement": ["one"]},
        {"edit_statement": ["one", " "]},
        {"edit_statement": "one"},
        {"edit_scope": []},
        {"edit_scope": [["question"]]},
        {"edit_scope": [["question", 3]]},
    ],
)
def test_rows_that_are_not_as_published_are_named(tmp_path: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(InputFileError, match=r"not as published.*row 1"):
        two_steps(write(tmp_path, [bridge(0), {**bridge(1), **changed}]))


def test_files_with_nothing_to_report_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=r"no hotpot_notes.jsonl"):
        two_steps(tmp_path)
    with pytest.raises(EmptySetError, match="first 100 rows"):
        two_steps(write(tmp_path, [bridge(book) for book in range(CHOSEN_ON)]))


def test_names_that_a_note_drops_are_asked_for_once_and_not_what_it_tells_of() -> None:
    note = "The Oberoi family is known for The Oberoi Group. Delhi is a city in India."
    assert names_in(note) == ["Oberoi", "Oberoi Group", "Delhi", "India"]
    assert untold("What does the Oberoi family own?", note, "") == ["Oberoi Group", "India"]
    assert untold("What does the Oberoi family own?", note, "- Oberoi Group") == ["India"]
    assert tells_of("The Oberoi Group is a company.", "Oberoi Group")
    assert not tells_of("A company that is here and now and there, the Oberoi Group.", "Oberoi Group")
    assert not tells_of("He was from Delhi.", "Delhi")


def test_the_loop_finds_behind_a_bridge_what_one_look_up_misses(tmp_path: Path) -> None:
    asked, documents = two_steps(published(tmp_path))
    source, run = lexical_retriever(documents), ClaimRun()
    questions = [each.question for each in asked]
    answers = AdaptiveNote(adaptive_note_published.BY_RULE)(RuleReader(), source, run=RUN).answer(questions)
    assert [check.holds for check in loop_checks(asked, answers, source, run)] == [True, True, True]
    table = run.tables["both notes read, bridge"]
    assert table["the loop"] > 0.9 > table["one look-up of as many passages"]
    assert sum(table["stops"].values()) == table["questions"] == 30


def test_a_reader_that_never_asks_for_the_bridge_is_found_out(tmp_path: Path) -> None:
    class Lazy(RuleReader):
        def say(self, text: str) -> str:
            return "What else is told?" if "Asked already" in text else super().say(text)

    asked, documents = two_steps(published(tmp_path))
    source = lexical_retriever(documents)
    questions = [each.question for each in asked]
    answers = AdaptiveNote(adaptive_note_published.BY_RULE)(Lazy(), source, run=RUN).answer(questions)
    assert not next(iter(loop_checks(asked, answers, source, ClaimRun()))).holds


def test_a_loop_that_goes_on_everywhere_alike_does_not_stop_by_itself() -> None:
    enough = [True, False] * 10
    assert stop_check(enough, [0, 2] * 10).holds
    assert not stop_check(enough, [2, 2] * 10).holds
    assert not stop_check(enough, [2, 0] * 10).holds
    assert stop_check([True] * 5, [1] * 5).measured is None


def test_a_model_that_asks_for_the_bridge_passes_and_its_answers_are_in_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, documents = two_steps(published(tmp_path))
    run = ClaimRun()
    chat: Any = RuleReader(queries=1)
    monkeypatch.setattr(adaptive_note_published, "MODEL_QUESTIONS", 12)
    found = list(model_checks(chat, asked, lexical_retriever(documents), run))
    table = run.tables["the embedded model on questions with a bridge"]
    assert [check.holds for check in found] == [True, True], found
    assert table["adaptive_note"]["questions"] == table["rag"]["questions"] == 12
    assert table["adaptive_note"]["both notes read"] > table["rag"]["both notes read"]
    assert table["adaptive_note"]["right"]["value"] > table["rag"]["right"]["value"]


class Fixed:
    """Finds the same passages for every query."""

    def search(self, query: str, k: int) -> list[Hit]:
        """The first ``k``."""
        del query
        return [Hit(f"{name}#0-1", "x", 1.0, name, (0, 1)) for name in ("a", "b", "c")][:k]


def told(text: str, documents: str, **changed: Any) -> Answer:
    """An answer made from ``documents``, one letter each."""
    trace = {"passages": [{"document": name} for name in documents], "stop": "max_fails", "calls": 5, "seconds": 1.0,
             "completion_tokens": 9, "note": "n", "rounds": [{"accepted": False}]}  # fmt: skip
    return Answer(text, (), {**trace, **changed})


def test_a_model_whose_queries_find_nothing_more_is_found_out() -> None:
    asked = [TwoSteps(f"q{n}", "Oslo", frozenset("ab"), "bridge") for n in range(8)]
    found, missed = told("Oslo", "ab"), told("no", "ac")
    run = ClaimRun()
    assert [check.holds for check in answer_checks(asked, [found] * 8, [missed] * 8, Fixed(), run)] == [True, True]
    table = run.tables["the embedded model on questions with a bridge"]
    assert (table["adaptive_note"]["right"]["value"], table["rag"]["right"]["value"]) == (1.0, 0.0)
    assert table["both notes in one look-up of as many passages"] == 8
    same = [check.holds for check in answer_checks(asked, [missed] * 8, [missed] * 8, Fixed(), ClaimRun())]
    assert same == [True, False]
    assert [check.holds for check in answer_checks([], [], [], Fixed(), ClaimRun())] == [False, False]


@pytest.mark.parametrize(
    "changed",
    [
        {"stop": "tired"},
        {"rounds": [{"accepted": True}] * (BY_MODEL.max_rounds + 1)},
        {"calls": 99},
        {"passages": [{"document": "a"}] * (BY_MODEL.max_passages + 1)},
        {"note": "two\nlines"},
    ],
)
def test_a_trace_that_breaks_a_promise_is_found_out(changed: dict[str, Any]) -> None:
    assert not breaks_a_guarantee(told("x", "ab").trace, BY_MODEL)
    broken = told("x", "ab", **changed)
    assert breaks_a_guarantee(broken.trace, BY_MODEL)
    asked = [TwoSteps("q", "Oslo", frozenset("ab"), "bridge")]
    assert not next(iter(answer_checks(asked, [broken], [told("x", "a")], Fixed(), ClaimRun()))).holds


def test_a_gain_that_may_be_chance_is_none() -> None:
    assert gain_check("x", [True] * 6 + [False] * 4, [False] * 10, None).holds
    assert not gain_check("x", [True] * 5 + [False] * 5, [False] * 10, None).holds
    assert gain_check("x", [], [], None).measured is None


@pytest.mark.shared_data
def test_the_published_file_gives_what_the_claim_asks(shared_data: Path) -> None:
    asked, documents = two_steps(shared_data)
    assert len(asked) == 700
    assert all(each.notes <= documents.keys() for each in asked)
    assert sum(each.kind == "bridge" for each in asked) > 500


def test_the_claim_names_the_file_that_it_reads() -> None:
    assert CLAIM.files == (FILE,)
