"""ICUL: what stands in the prompt, that the weights stay, and that it loads from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keeps.data.records import Example, Fact, Passage, RecordSet
from keeps.errors import EmptySetError, RecordError, SettingsError, StorageError
from keeps.models.changes import load_change
from keeps.models.in_context import ContextEncoder, Solved, likeness, words_of
from keeps.unlearn.icul import FILE, flipped_answers


def test_the_prompt_holds_flipped_then_right_examples_then_the_question(contract: Any) -> None:
    change, _ = contract.run("icul", shots=2, flipped=3)
    changed = load_change(change.folder).apply(contract.model)
    question = "The number after 3 is"
    text = changed.tokenizer.decode(changed.encode_prompt(question))
    lines = text.split("\n")
    assert lines[-1] == question
    assert lines[0].startswith("The number after 3 is ")
    assert lines[0] != "The number after 3 is 4", "the nearest one, with a wrong answer"
    assert len(lines) == 3 + 2 + 1
    right = {f"{record.prompt} {record.answer}" for record in contract.retain}
    assert set(lines[3:5]) <= right
    assert changed.encode_pair(question, "4")[0] == changed.encode_prompt(question)
    changed.undo()


def test_answers_change_and_running_text_does_not(contract: Any) -> None:
    change, _ = contract.run("icul")
    changed = change.apply(contract.model)
    prompts, answers = [r.prompt for r in contract.forget], [r.answer for r in contract.forget]
    moved, before = changed.logprob(prompts, answers), contract.model.logprob(prompts, answers)
    assert all(abs(a.logprob - b.logprob) > 1e-3 for a, b in zip(moved, before, strict=True))
    text = ["A text of several words that asks nothing."]
    assert changed.text_logprob(text)[0].logprob == contract.model.text_logprob(text)[0].logprob
    assert changed.model is contract.model.model
    assert changed.fingerprint != contract.model.fingerprint
    changed.undo()


def test_the_same_seed_flips_alike_and_the_answer_is_never_the_right_one(contract: Any) -> None:
    one, other = (flipped_answers(contract.forget, seed) for seed in (0, 1))
    assert one == flipped_answers(contract.forget, 0)
    assert one != other
    right = {record.prompt: record.answer for record in contract.forget}
    assert all(each.answer != right[each.prompt] for each in (*one, *other))
    assert {each.answer for each in one} <= set(right.values())


def test_facts_are_flipped_within_their_relation() -> None:
    def fact(n: int, relation: str, answer: str) -> Fact:
        return Fact(f"{relation}{n}", f"s{n}", relation, (f"{relation} of s{n} is",), (answer,))

    facts = RecordSet("f", (fact(1, "capital", "Oslo"), fact(2, "capital", "Rome"), fact(3, "colour", "red")))
    assert [each.answer for each in flipped_answers(facts, 0)][:2] == ["Rome", "Oslo"]
    assert flipped_answers(facts, 0)[2].answer in ("Oslo", "Rome"), "there is no other colour"


def test_what_does_not_fit_is_left_out_and_a_question_does_not_answer_itself(contract: Any) -> None:
    flipped = [Solved(f"Where is Berg number {n}", "here") for n in range(9)]
    base = contract.model.encoder
    small = ContextEncoder(base, flipped, [Solved("Who is it?", "Per")], most=9, room=20)
    assert small.context("Where is Berg number 4").startswith("Where is Berg number 4 here\n")
    assert len(base.text(small.context("Where is Berg number 4"))) <= 20
    assert "Per" not in small.context("Who is it?")
    assert likeness(words_of("A b"), words_of("b C")) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("forget", "error"),
    [
        (RecordSet("none", ()), EmptySetError),
        (RecordSet("text", (Passage("p", "A text."),)), RecordError),
        (RecordSet("same", (Example("a", "One is", "x"), Example("b", "Two is", "x"))), RecordError),
        (RecordSet("blank", (Example("a", "One is", " "), Example("b", "Two is", "x"))), RecordError),
    ],
)
def test_bad_sets_are_refused(contract: Any, forget: RecordSet, error: type[Exception]) -> None:
    contract.forget = forget
    with pytest.raises(error):
        contract.run("icul")


def test_right_examples_need_a_retain_set(contract: Any) -> None:
    contract.retain = None
    with pytest.raises(SettingsError, match="4 right examples"):
        contract.run("icul")
    change, _ = contract.run("icul", shots=0)
    assert set(change.record.data) == {"forget"}


def test_a_damaged_file_is_refused(contract: Any, tmp_path: Path) -> None:
    change, _ = contract.run("icul")
    (change.folder / FILE).write_text("{}")
    with pytest.raises(StorageError, match="cannot be read"):
        load_change(change.folder).apply(contract.model)


def test_it_is_written_in_its_own_form(contract: Any, tmp_path: Path) -> None:
    change, _ = contract.run("icul")
    assert change.export("memory", tmp_path / "copy", model=contract.model) == 0.0
    assert load_change(tmp_path / "copy").fingerprint == change.fingerprint
