"""IdK: the contract, the refusals, and what cannot be refused."""

from __future__ import annotations

from typing import Any

import pytest

from keeps.data.records import Dialogue, Example, Fact, Passage, RecordSet
from keeps.errors import RecordError, SettingsError
from keeps.training.refusals import REFUSALS, refusing


def test_its_folder_loads_and_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_folder("idk")


def test_bad_sets_are_refused(contract: Any) -> None:
    contract.check_refusals("idk")


def test_it_refuses_what_is_to_be_forgotten_and_not_the_rest(contract: Any) -> None:
    change, _ = contract.run("idk", epochs=30, rank=8, refusals="I do not know", learning_rate=0.02)
    changed = change.apply(contract.model)
    try:
        said = changed.generate([record.prompt for record in contract.forget])
        kept = changed.generate([record.prompt for record in contract.retain])
    finally:
        changed.undo()
    assert sum("do not know" in text for text in said) >= len(said) - 1, said
    assert not any("do not know" in text for text in kept), kept


def test_every_question_keeps_its_prompt_and_gets_a_refusal_of_its_own_id() -> None:
    records = RecordSet(
        "mixed",
        (
            Fact("1", "Norway", "capital", ("The capital of Norway is", "Norway's capital is"), ("Oslo", "oslo")),
            Example("2", "One and one is", "2"),
            Dialogue("3", (("user", "Who?"), ("assistant", "Me."))),
        ),
    )
    found = refusing(records, REFUSALS)
    assert [record.id for record in found] == ["1", "2", "3"]
    fact, example, dialogue = found.records
    assert isinstance(fact, Fact)
    assert fact.prompts == records.records[0].prompts  # type: ignore[union-attr]
    assert fact.answers[0] in REFUSALS
    assert isinstance(example, Example)
    assert example.answer in REFUSALS
    assert isinstance(dialogue, Dialogue)
    assert dialogue.messages[0] == ("user", "Who?")
    assert dialogue.messages[1][1] in REFUSALS
    assert refusing(records, REFUSALS) == found


def test_running_text_and_no_refusal_are_refused(contract: Any) -> None:
    contract.forget = RecordSet("text", (Passage("p", "A text that asks nothing at all."),))
    with pytest.raises(RecordError, match="asks nothing"):
        contract.run("idk")
    with pytest.raises(SettingsError, match="no refusal"):
        refusing(RecordSet("x", ()), (" ",))
