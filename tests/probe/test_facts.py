"""Facts are right in half of their wordings, choices by log-probability per token, and order is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import keeps
from keeps.contracts import Answer, Question, Run
from keeps.errors import EmptySetError, RecordError
from keeps.models import LanguageModel
from keeps.probe import FactProbe, SeveralProbes
from keeps.probe.facts import CHUNK, MIN_ANSWER_TOKENS, answer_room


class Oracle:
    """Answers from a table, and knows nothing of probabilities."""

    def __init__(self, table: dict[str, str]) -> None:
        self.table = table
        self.asked: list[str] = []

    def answer(self, questions: Sequence[str], contexts: Sequence[str] | None = None) -> list[Answer]:
        assert contexts is None
        self.asked += questions
        return [Answer(self.table.get(question, " nothing ")) for question in questions]


def question(identity: str, wordings: int, **more: Any) -> Question:
    prompts = tuple(f"{identity} in wording {number} is" for number in range(wordings))
    return Question(identity, more.pop("group", "facts"), prompts, more.pop("answers", ("yes",)), **more)


@pytest.mark.parametrize(
    ("wordings", "right", "known"),
    [
        (1, 0, False),
        (1, 1, True),
        (2, 1, True),
        (3, 1, False),
        (3, 2, True),
        (4, 1, False),
        (4, 2, True),
        (5, 2, False),
    ],
)
def test_a_fact_is_known_when_half_of_its_wordings_are_right(wordings: int, right: int, known: bool) -> None:
    asked = question("it", wordings)
    oracle = Oracle(dict.fromkeys(asked.prompts[wordings - right :], "yes, surely"))
    [row] = FactProbe([asked])(oracle)
    assert row.correct is known
    assert row.score == right / wordings
    assert [wording["correct"] for wording in row.details["wordings"]] == [False] * (wordings - right) + [True] * right


def test_a_plain_answerer_is_asked_for_text_alone() -> None:
    open_one, choice = (
        question("it", 2),
        question("which", 1, answers=("red", "crimson"), choices=("blue", "red", "crimson")),
    )
    oracle = Oracle({"which in wording 0 is\nAnswer with one of: blue; red; crimson": " Crimson."})
    rows = FactProbe([open_one, choice])(oracle)
    assert oracle.asked[:2] == list(open_one.prompts)
    assert [(row.kind, row.correct, row.answer, row.logprob) for row in rows] == [
        ("fact", False, "nothing", None),
        ("choice", True, "Crimson.", None),
    ]
    assert json.loads(json.dumps(rows[0].details)) == rows[0].details


def test_rows_come_in_the_order_of_the_questions_over_many_chunks(tiny_llama: LanguageModel) -> None:
    questions = [
        question(f"{number}", 2, answers=("red",), choices=("blue", "red") if number % 3 == 0 else ())
        for number in range(CHUNK // 2 + 5)
    ]
    probe = FactProbe(questions)
    rows = probe(tiny_llama)
    assert [row.id for row in rows] == [item.id for item in questions] == probe.ids
    assert [row.prompt for row in rows] == [item.prompts[0] for item in questions]
    assert [row.kind for row in rows] == ["choice" if item.choices else "fact" for item in questions]


def test_log_probabilities_are_those_of_the_expected_answer_averaged_over_wordings(tiny_llama: LanguageModel) -> None:
    asked = question("it", 3, answers=("crimson", "red"))
    [row] = FactProbe([asked])(tiny_llama)
    scores = tiny_llama.logprob(asked.prompts, ["crimson"] * 3)
    assert row.logprob == pytest.approx(sum(score.logprob for score in scores) / 3, abs=1e-4)


def test_a_choice_is_the_one_with_the_highest_log_probability_per_token(tiny_llama: LanguageModel) -> None:
    choices = ("red", "a very long name of a colour", "ultramarine", "blue")
    for number in range(6):
        prompts = (f"Colour {number} is", f"The colour of {number} is")
        [row] = FactProbe([Question("it", "g", prompts, ("ultramarine",), choices)])(tiny_llama)
        per_token = [score.per_token for score in tiny_llama.logprob([prompts[0]] * 4, choices)]
        best = choices[per_token.index(max(per_token))]
        assert row.answer == best
        assert row.details["wordings"][0]["correct"] is (best == "ultramarine")
        expected = tiny_llama.logprob(prompts, ["ultramarine"] * 2)
        assert row.logprob == pytest.approx(sum(score.logprob for score in expected) / 2, abs=1e-4)


def test_the_right_answer_is_seen_however_many_tokens_it_has(tiny_llama: LanguageModel) -> None:
    few_letters, many_letters = "ʻĀʻā-ʻŌʻō-ʻŪʻū", "international relations"
    tokens = [len(tiny_llama.encode_pair("It is", answer)[1]) for answer in (few_letters, many_letters)]
    assert len(few_letters) < len(many_letters)
    assert tokens[0] > tokens[1] + 3
    assert answer_room(tiny_llama, [few_letters, many_letters]) >= tokens[0] + 1
    assert answer_room(tiny_llama, ["a"]) == MIN_ANSWER_TOKENS


def test_the_fingerprint_tells_questions_apart_and_nothing_else() -> None:
    asked = question("it", 2)
    same = FactProbe([asked], name="one").fingerprint
    assert same == FactProbe([question("it", 2)], name="another").fingerprint
    changed = [replace(asked, id="that"), replace(asked, answers=("no",)), replace(asked, prompts=asked.prompts[::-1])]
    changed += [replace(asked, group="other"), replace(asked, choices=("yes", "no"))]
    assert len({same, *(FactProbe([item]).fingerprint for item in changed)}) == 6
    assert FactProbe([asked, changed[0]]).fingerprint != FactProbe([changed[0], asked]).fingerprint


def test_the_fingerprint_of_a_known_set_never_changes() -> None:
    """Stored results are found by it: a change would silently have every model asked again."""
    asked = Question("1", "keep: capital", ("The capital of Norway is",), ("Oslo", "Christiania"))
    assert FactProbe([asked]).fingerprint == "4df35f74cf4b0eac"


def test_progress_counts_wordings() -> None:
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

    FactProbe([question("it", 3)], name="colours")(Oracle({}), run=Run(Path(), progress=Counting()))
    assert seen == ["probe colours", 3, 0, 3]


def test_bad_questions_are_refused_before_anything_is_asked() -> None:
    with pytest.raises(EmptySetError, match="no question"):
        FactProbe([])
    with pytest.raises(RecordError, match='"green" is not among the choices'):
        FactProbe([question("it", 1, answers=("green",), choices=("red", "blue"))])
    for empty in (question("it", 0), question("it", 1, answers=())):
        with pytest.raises(RecordError, match="no prompt or no answer"):
            FactProbe([empty])


def test_ids_that_stand_twice_are_refused_before_anything_is_asked() -> None:
    one, other = FactProbe([question("it", 1)]), FactProbe([question("it", 1, group="other")])
    with pytest.raises(RecordError, match='two questions have the id "it"'):
        SeveralProbes([one, other], name="both")

    class Foreign:
        name = fingerprint = "foreign"

        def __call__(self, answerer: Any, *, run: Run | None = None) -> Any:
            return one(answerer, run=run)

    both = SeveralProbes([one, Foreign()], name="both")
    with pytest.raises(RecordError, match='two questions have the id "it"'):
        both(Oracle({}))


def test_several_probes_ask_one_after_the_other() -> None:
    one, other = FactProbe([question("it", 1)]), FactProbe([question("that", 1, group="other")])
    both = SeveralProbes([one, other], name="both")
    assert [row.id for row in both(Oracle({}))] == ["it", "that"]
    assert both.fingerprint != SeveralProbes([other, one], name="both").fingerprint
    with pytest.raises(EmptySetError, match="nothing to probe"):
        SeveralProbes([], name="none")


def test_whatever_answers_can_be_measured_from_python(tmp_path: Path) -> None:
    path = tmp_path / "questions.csv"
    path.write_text("prompt,answer\nThe capital of Norway is,Oslo\nThe capital of Peru is,Lima\n")
    probe = FactProbe(keeps.load_records(path).questions())
    rows = probe(Oracle({"The capital of Peru is": "Lima, on the coast"}))
    assert [row.correct for row in rows] == [False, True]
