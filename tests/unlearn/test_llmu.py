"""LLMU: the contract, its random answers, and that its first loss is made of its three terms."""

from __future__ import annotations

from typing import Any

import pytest

from keeps.data.records import Dialogue, Example, Fact, Passage, RecordSet
from keeps.errors import RecordError, SettingsError
from keeps.training.mismatches import mismatched, with_answer
from keeps.unlearn.llmu import LLMUSettings


def test_it_forgets(contract: Any) -> None:
    contract.check_forgets("llmu")


def test_its_folder_loads_and_depends_on_the_seed_alone(contract: Any) -> None:
    contract.check_folder("llmu")


def test_bad_sets_are_refused(contract: Any) -> None:
    contract.check_refusals("llmu")


def test_it_continues_to_the_same_bytes(contract: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    contract.check_resumes("llmu", monkeypatch)


def test_it_needs_normal_data(contract: Any) -> None:
    contract.retain = None
    with pytest.raises(SettingsError, match="nothing to retain"):
        contract.run("llmu")


def test_random_answers_become_likelier_than_without_their_term(contract: Any) -> None:
    wrong = mismatched(contract.forget, contract.retain, count=5, seed=0)
    prompts, answers = [r.prompt for r in wrong], [r.answer for r in wrong]  # type: ignore[union-attr]

    def likely(weight: float) -> float:
        change, _ = contract.run("llmu", epochs=6, rank=8, random_weight=weight)
        changed = change.apply(contract.model)
        found = sum(score.logprob for score in changed.logprob(prompts, answers))
        changed.undo()
        return found

    assert likely(2.0) > likely(1e-6) + 5


def test_normal_data_may_be_held_by_its_right_answers(contract: Any) -> None:
    change, _ = contract.run("llmu", retain_loss="nll")
    assert change.record.settings["retain_loss"] == "nll"


def test_a_random_answer_is_never_a_right_one_and_depends_on_the_seed() -> None:
    others = RecordSet("o", tuple(Example(f"o{n}", f"q{n}", answer) for n, answer in enumerate("abcd")))
    asked = RecordSet("q", (Example("x", "Who?", "A", aliases=("b",)), Example("y", "What?", "z")))
    found = mismatched(asked, others, count=6, seed=0)
    by_id = {"x": set(), "y": set()}  # type: ignore[var-annotated]
    for record in found:
        by_id[record.id.partition("#")[0]].add(record.answer)  # type: ignore[union-attr]
    assert by_id == {"x": {"c", "d"}, "y": {"a", "b", "c", "d"}}, "all others, once before any comes again"
    assert [r.answer for r in found][:3] == ["c", "d", "c"], "six draws of two are three times both"  # type: ignore[union-attr]
    assert mismatched(asked, others, count=2, seed=0) == mismatched(asked, others, count=2, seed=0)
    draws = {tuple(r.answer for r in mismatched(asked, others, count=1, seed=seed)) for seed in range(9)}  # type: ignore[union-attr]
    assert len(draws) > 1


def test_every_kind_of_question_gets_another_answer() -> None:
    fact = Fact("1", "s", "r", ("The r of s is",), ("a", "b"), choices=("a", "b", "c"))
    assert with_answer(fact, "c", "#0") == Fact("1#0", "s", "r", ("The r of s is",), ("c",))
    talk = Dialogue("2", (("user", "Hi"), ("assistant", "Hello")))
    assert with_answer(talk, "No") == Dialogue("2", (("user", "Hi"), ("assistant", "No")))


@pytest.mark.parametrize(
    ("asked", "message"), [(Passage("p", "A text."), "asks nothing"), (Example("e", "Q?", "a"), "no other answer")]
)
def test_what_has_no_other_answer_is_refused(asked: Any, message: str) -> None:
    others = RecordSet("o", (Example("o", "q", "a"),))
    if isinstance(asked, Passage):
        others = RecordSet("o", (Example("o", "q", "b"),))
    with pytest.raises(RecordError, match=message):
        mismatched(RecordSet("q", (asked,)), others, count=1, seed=0)


@pytest.mark.parametrize("values", [{"random_weight": 0}, {"random_answers": 0}, {"max_loss": -1}])
def test_bad_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))):
        LLMUSettings.from_mapping(values)
